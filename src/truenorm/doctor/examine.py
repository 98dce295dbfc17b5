"""The examination: an evaluation pass, and what the layers should have stored."""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from truenorm.data.sample import Sample
from truenorm.doctor.layers import Layer, comparable, layers_of, stored_statistics
from truenorm.doctor.rows import independent
from truenorm.doctor.score import AS_IS, BY_BATCH, Score, Scored, best_estimate, scored
from truenorm.doctor.target import logits_in
from truenorm.errors import InvalidInput, NotMeasurable
from truenorm.metrics.intervals import Interval
from truenorm.model.behaviours import behaviours, behaviours_without_data
from truenorm.model.evaluate import Forward, evaluating, run
from truenorm.model.layers import batch_norms, has_batch_norm
from truenorm.model.mask import Mask
from truenorm.model.measure import bytes_per_sample, frozen_layers, joint_estimates, measure, settled
from truenorm.model.statistics import using
from truenorm.stats.moments import Moments
from truenorm.stats.shift import ShiftReport, errors, estimation_shift, noise_floor
from truenorm.stats.statistics import Statistics

_BATCH = 32
"""Samples in a batch where the data come one by one."""

_FEW = 256
"""Samples on which candidates are compared at most."""

_LEAST = 8
"""Samples that show what repairing one layer does, at least."""

_LARGE = 64
"""Samples in a batch from which on its statistics are near those of all data."""

_GIANT = 2**30
"""Bytes that a giant batch may take."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Everything the causes look at. Without data all that comes of data is None or empty.

    Args:
        model: the network, as it was given.
        layers: what can be read off it.
        optimizer: what trains it, if it was given.
        sample: half of the data: what is measured on.
        held_out: the other half: what is scored on.
        forward: how a batch is run.
        mask: gives the valid positions of a batch.
        score: the user's.
        stored: what the layers carry.
        arriving: the moments of what reaches each layer in evaluation; None where they cannot be had.
        estimates: what the layers could carry, by estimator.
        scores: as it is (`AS_IS`), with the batches' own statistics (`BY_BATCH`), and under each estimate, frozen
            layers left as they are.
        unfrozen: the same with frozen layers included, where there are any.
        repeated: layers that are called more than once per forward.
        left: layers that a repair would leave alone (frozen).
        partly: layers that some of the passes did not reach.
        sizes: samples in each batch of the data, as they came.
        by_batch: modules without statistics that normalise by their batch in eval(), too.
        constant: other modules without statistics, whose output depends on no other sample and which training does not
            change.
        entangled: whether in eval() an output depends on the other samples of its batch.
        unknown: modules that normalise by their batch in train() only, and keep what they need then in no known form.
    """

    model: nn.Module
    layers: dict[str, Layer]
    optimizer: torch.optim.Optimizer | None = None
    sample: Sample | None = None
    held_out: Sample | None = None
    forward: Forward | None = None
    mask: Mask | None = None
    score: Score | None = None
    stored: Statistics
    arriving: Statistics | None = None
    estimates: dict[str, Statistics]
    scores: dict[str, Scored]
    unfrozen: dict[str, Scored] = field(default_factory=dict[str, Scored])
    repeated: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    by_batch: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    entangled: bool = False

    @property
    def momentum_known(self) -> bool:
        """Whether the layers were trained with the momentum they have; of a network that was built for a checkpoint
        this is a guess, for no state dict holds it."""
        return self.optimizer is not None and len(self.optimizer.state) > 0

    @property
    def joint(self) -> Statistics:
        """What running statistics estimate."""
        return self.estimates["joint"]

    @property
    def exact(self) -> Statistics:
        """What each layer would see at inference, were all right."""
        return self.estimates["sequential"]

    @property
    def compared(self) -> list[str]:
        """Layers whose running statistics can be compared with those measured: reached, and not damaged."""
        return [name for name in self.joint if name in self.stored and not self.layers[name].damaged]

    @property
    def moved(self) -> list[str]:
        """Of these, the layers that no longer hold the initial 0 and 1."""
        return [name for name in self.compared if not self.layers[name].untouched]

    @property
    def one_by_one(self) -> bool:
        """Whether the loader gives one sample at a time."""
        return bool(self.sizes) and max(self.sizes) == 1

    def shift(self) -> ShiftReport | None:
        """How far each layer is off what arrives at it."""
        return None if self.arriving is None else _between(self.stored, self.arriving)

    def own(self) -> ShiftReport | None:
        """How far each layer is off what it should have stored: its own error alone."""
        return None if self.arriving is None else _between(self.stored, self.exact)

    @cached_property
    def best(self) -> str | None:
        """The estimate to repair with; None where what is stored does as well, or nothing was scored."""
        return best_estimate(self.scores) if AS_IS in self.scores else None

    @cached_property
    def best_unfrozen(self) -> str | None:
        """The same with frozen layers included."""
        return best_estimate(self.unfrozen) if AS_IS in self.unfrozen else None

    @property
    def best_score(self) -> Scored | None:
        """Of the best repair, with frozen layers where that does better, or of what is stored; None without scores."""
        if self.best_unfrozen is not None:
            return self.unfrozen[self.best_unfrozen]
        return self.scores.get(self.best or AS_IS)

    @cached_property
    def few(self) -> Sample:
        """A part of the measured samples, on which candidates are compared; what it chooses is tried on all."""
        assert self.sample is not None
        if self.sample.joined is None:
            return replace(self.sample, batches=self.sample.batches[: max(1, len(self.sample.batches) // 4)])
        few = max(self.sample.batch_size, min(_FEW, len(self.sample) // 4))
        return self.sample.rows(torch.arange(min(few, len(self.sample))))

    @property
    def unfit(self) -> tuple[str, ...]:
        """Layers that were given something else than they store statistics of."""
        return self.joint.provenance.unfit if self.estimates else ()

    @property
    def unreached(self) -> tuple[str, ...]:
        """Layers with statistics that no batch reached."""
        if not self.estimates:
            return ()
        reached = {*self.joint, *self.partly, *self.unfit}
        return tuple(n for n, layer in self.layers.items() if n not in reached and layer.stored is not None)

    def gains(self) -> dict[str, dict[str, Interval]]:
        """What each estimate gives on held-out samples, by metric; frozen layers included."""
        scores = self.unfrozen or self.scores
        return {name: scores[name].gain(scores[AS_IS]) for name in self.estimates if name in scores}

    def measure(self, sample: Sample, flow: Literal["joint", "eval"] = "joint") -> Statistics:
        """Either flow over other batches, frozen layers included."""
        return self.measure_on(self.model, sample, flow)

    def measure_on(self, model: nn.Module, sample: Sample, flow: Literal["joint", "eval"] = "joint") -> Statistics:
        """The same on a changed copy of the network."""
        with using(model):
            model.eval()
            if flow == "eval":
                arriving = measure(model, sample.batches, forward=self.forward, mask=self.mask, flow="eval")
                return comparable(arriving, self.layers)
            joint, _ = joint_estimates(model, sample.batches, forward=self.forward, mask=self.mask, frozen=[])
            return comparable(joint, self.layers)

    def measure_both(self, sample: Sample) -> tuple[Statistics, Statistics]:
        """The joint flow over other batches, with either variance."""
        with using(self.model):
            self.model.eval()
            pooled, within = joint_estimates(
                self.model, sample.batches, forward=self.forward, mask=self.mask, frozen=[]
            )
        return comparable(pooled, self.layers), comparable(within, self.layers)

    def judged(self, sample: Sample) -> Scored | None:
        """The score as it is, on other samples."""
        return scored(self.model, sample, score=self.score, forward=self.forward)

    def judged_on(self, model: nn.Module) -> Scored | None:
        """The score of a changed copy of the network, on the held-out samples."""
        if self.held_out is None or AS_IS not in self.scores:
            return None
        return scored(model, self.held_out, score=self.score, forward=self.forward)

    def copy(self) -> nn.Module | None:
        """A copy of the network that may be changed; None where it cannot be copied."""
        try:
            return copy.deepcopy(self.model)
        except Exception:  # whatever a module of the user's raises: what needs a copy is not tried
            return None


def examine(
    model: nn.Module,
    sample: Sample | None,
    *,
    score: Score | None,
    forward: Forward | None,
    mask: Mask | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Case:
    """One evaluation pass, two passes for what should be stored, one for each thing that is scored.

    Raises:
        InvalidInput, NotMeasurable: as `measure` and `scored` do.
    """
    entangled = False
    if sample is not None:
        apart = independent(model, sample, forward)
        entangled = apart is False
        sample = replace(sample, joined=sample.joined if apart else None, whole=forward is not None)
    behaves = behaviours_without_data(model) if sample is None else behaviours(model, sample.batches[0], forward)
    by_batch = tuple(name for name, one in behaves.items() if one.by_batch and not one.stores)
    constant = tuple(name for name, one in behaves.items() if not one.trains and not one.stores)
    unknown = tuple(name for name, one in behaves.items() if one.standardises and not one.stores and not one.by_batch)
    layers = layers_of(model, behaves) if has_batch_norm(model) else {}
    stored = stored_statistics(layers)
    bare = Case(
        model=model,
        layers=layers,
        optimizer=optimizer,
        sample=sample,
        stored=stored,
        estimates={},
        scores={},
        by_batch=by_batch,
        constant=constant,
        unknown=unknown,
        entangled=entangled,
    )
    if sample is None or not len(stored):
        return bare
    sizes = tuple(batch.size for batch in sample.batches)
    if max(sizes) == 1:
        sample = sample.batched(_BATCH)  # the joint flow of vectors needs two
    measured, held_out = sample.parts()
    arriving = None
    fixed = [name for name, layer in layers.items() if layer.behaviour.fixed]
    left = list(dict.fromkeys([*frozen_layers(model), *fixed]))
    with using(model):
        model.eval()
        if not any(layer.damaged for layer in layers.values()):
            arriving = measure(model, measured.batches, flow="eval", forward=forward, mask=mask)
            arriving = comparable(arriving, layers)
        estimated = joint_estimates(model, measured.batches, forward=forward, mask=mask, frozen=[])
        joint, within = (comparable(statistics, layers) for statistics in estimated)
        exact = comparable(exact_statistics(model, measured, forward, mask, estimated[0]), layers)
    passes = [statistics for statistics in (joint, exact, arriving) if statistics is not None]
    # A layer that the model calls for some batches only may be missing in a pass: what it should carry is not known.
    reached = [name for name in joint if all(name in statistics for statistics in passes)]
    arriving = None if arriving is None else _only(arriving, reached)
    named = {"joint": joint, "within": within, "sequential": exact}
    estimates = {name: _only(statistics, reached) for name, statistics in named.items()}
    case = Case(
        model=model,
        layers={name: layers[name] for name in dict.fromkeys((*reached, *layers))},
        optimizer=optimizer,
        sample=measured,
        held_out=held_out,
        forward=forward,
        mask=mask,
        score=score,
        stored=stored,
        arriving=arriving,
        estimates=estimates,
        scores={},
        sizes=sizes,
        repeated=(arriving or joint).provenance.repeated,
        left=tuple(left),
        partly=tuple(name for name in joint if name not in reached),
        by_batch=by_batch,
        constant=constant,
        unknown=unknown,
        entangled=entangled,
    )
    return with_scores(case)


def exact_statistics(
    model: nn.Module, sample: Sample, forward: Forward | None, mask: Mask | None, joint: Statistics
) -> Statistics:
    """What each layer sees at inference, were all right: from one giant batch, or by rounds where none can be made.

    Args:
        model: the network.
        sample: what is measured.
        forward: how to run a batch.
        mask: gives the valid positions of a batch.
        joint: what the joint flow gave; layers that are not in it are left alone.
    """
    giant = sample.batched(giant_batch(model, sample, forward))
    if giant.joined is None and sample.batch_size < _LARGE:
        return settled(model, [batch.raw for batch in sample.batches], joint, forward=forward, mask=mask)
    frozen = [name for name in batch_norms(model) if name not in joint]
    return joint_estimates(model, giant.batches, forward=forward, mask=mask, frozen=frozen)[0]


def with_scores(case: Case) -> Case:
    """The case with the score of its held-out samples as it is, under each estimate, and by each batch's own."""
    assert case.held_out is not None
    scores: dict[str, Scored] = {}
    unfrozen: dict[str, Scored] = {}
    how: dict[str, Any] = {"score": case.score, "forward": case.forward}
    for name, estimate in {AS_IS: Statistics({}), **case.estimates}.items():
        given = {layer: moments for layer, moments in estimate.items() if layer not in case.left}  # as repair does
        values = scored(case.model, case.held_out, statistics=given, **how)
        if values is None:
            break
        scores[name] = unfrozen[name] = values
        if len(given) < len(estimate):
            every = scored(case.model, case.held_out, statistics=estimate, **how)
            assert every is not None
            unfrozen[name] = every
    synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in case.model.modules())
    if scores and not synchronised:  # whose training mode would wait for other processes
        values = _scored_by_batch(case)
        scores |= {} if values is None else {BY_BATCH: values}
    return replace(case, scores=scores, unfrozen=unfrozen if case.left else {})


def _scored_by_batch(case: Case) -> Scored | None:
    """With each batch's own statistics: in batches of the loader's size, one by one where that is so."""
    assert case.held_out is not None
    how: dict[str, Any] = {"score": case.score, "forward": case.forward, "prepare": _by_batch}
    if case.one_by_one:
        try:
            return scored(case.model, case.held_out.batched(1), **how)
        except (ValueError, InvalidInput):  # one vector has no variance: training had larger batches
            pass
    return scored(case.model, case.held_out, **how)


def _only(statistics: Statistics, names: list[str]) -> Statistics:
    return Statistics({name: statistics[name] for name in names}, provenance=statistics.provenance)


def giant_batch(model: nn.Module, sample: Sample, forward: Forward | None) -> int:
    """Samples in a batch that takes about as much memory as is allowed; at least as many as the data's own."""
    if forward is not None or sample.joined is None:
        return max(512, sample.batch_size)
    per_sample = bytes_per_sample(model, sample.batches[0].input)
    return max(sample.batch_size, int(_GIANT / (4 * per_sample)))


def own_share(stored: Moments, arriving: Moments, exact: Moments) -> float:
    r"""Which part of a layer's residual is its own, 0 to 1; the rest is inherited from layers below.

    With r what is stored, e what arrives and s what it should be, in units of what arrives,

    $$ r - e = (r - s) + (s - e) $$

    for means over σ and for ln σ; the residual is split in proportion to the size of the two terms.
    """
    unit = arriving.std.double().clamp_min(1e-12)
    tiny = 1e-12

    def size(a: Moments, b: Moments) -> float:
        mean = (a.mean.double() - b.mean.double()) / unit
        log = ((a.var.double().clamp_min(0) + tiny) / (b.var.double().clamp_min(0) + tiny)).log() / 2
        return float((mean.square() + 2 * log.square()).mean().sqrt())

    own, inherited = size(stored, exact), size(exact, arriving)
    return own / (own + inherited) if own + inherited > 0 else 1.0


def harm(layer: Layer, moments: Moments, truth: Moments) -> float:
    r"""How wrong a layer's output is for its own error: rms over channels of |γ|·error, over the rms of |γ|.

    With d and λ as in `estimation_shift`, the normalised output is off by $-d e^{-\lambda}$ and scaled by
    $e^{-\lambda}$.
    """
    d_C, log_C = errors(moments, truth)
    gain_C = torch.exp(-log_C.clamp(-5, 5))
    off_C = (d_C * gain_C).square() + (gain_C - 1).square()
    weight_C = layer.gamma.square()
    return float(((off_C * weight_C).sum() / weight_C.sum().clamp_min(1e-30)).sqrt())


def effects(case: Case, names: list[str], *, samples: int = 256) -> dict[str, float]:
    """By how much the network's output moves when one layer alone is repaired, in standard deviations of the output.

    Together the layers take no more than one pass over what was measured. Empty where the output is no tensor of finite
    numbers.
    """
    assert case.sample is not None
    samples = min(samples, max(_LEAST, len(case.sample) // (len(names) + 1)))
    part = case.sample if case.sample.joined is None else case.sample.rows(torch.arange(min(samples, len(case.sample))))
    before = _output(case, part, {})
    if before is None or not bool(before.isfinite().all()):
        return {}
    spread = float(before.std(correction=0).clamp_min(1e-12))
    effect: dict[str, float] = {}
    for name in names:
        after = _output(case, part, {name: case.exact[name]})
        if after is not None and bool(after.isfinite().all()):
            effect[name] = float((after - before).square().mean().sqrt()) / spread
    return effect


def _output(case: Case, part: Sample, repaired: dict[str, Moments]) -> Tensor | None:
    parts: list[Tensor] = []
    with evaluating(case.model, repaired):
        for batch in part.batches[:8]:
            tensor = logits_in(run(case.model, batch, case.forward))
            if tensor is None:
                return None
            parts.append(tensor.double().flatten().cpu())
    return torch.cat(parts)


def distance(stats: Statistics, truth: Statistics, layers: list[str] | None = None) -> float:
    """Mean over layers of d² + 2λ², each channel's part bounded so that one dead channel is not everything."""
    names = [name for name in (layers or truth) if name in stats and name in truth]
    if not names:
        raise NotMeasurable("no layer was reached by any batch")
    total = 0.0
    for name in names:
        d_C, log_C = errors(stats[name], truth[name])
        total += float((d_C.clamp(-5, 5).square() + 2 * log_C.clamp(-3, 3).square()).mean())
    return total / len(names)


def chance(measured: Statistics, layers: list[str]) -> float:
    """The `distance` of exact statistics from these, which are of a sample: the mean square of noise floors."""
    floors = [noise_floor(measured[name]) or 0.0 for name in layers]
    return sum(floor**2 for floor in floors) / len(floors)


def slope_of_means(case: Case, layers: list[str]) -> float:
    """The slope of the stored means over those measured, in σ, over the channels of these layers."""
    units = {name: case.joint[name].std.double().clamp_min(1e-6) for name in layers}
    stored = torch.cat([case.stored[name].mean.double() / units[name] for name in layers])
    measured = torch.cat([case.joint[name].mean.double() / units[name] for name in layers])
    power = float(measured.square().sum())
    return float((stored * measured).sum()) / power if power > 0 else 0.0


def _between(stats: Statistics, reference: Statistics) -> ShiftReport:
    common = Statistics({name: moments for name, moments in reference.items() if name in stats})
    return estimation_shift(stats, common)


def _by_batch(model: nn.Module) -> None:
    for layer in batch_norms(model, tracking=False).values():
        layer.train()

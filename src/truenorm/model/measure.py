"""Measure population statistics over data, in one of three flows; the model is left as it was."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from truenorm.data.batches import Batch, batches_of
from truenorm.errors import InvalidInput, NotMeasurable, UnknownName
from truenorm.model.evaluate import Forward, Prepare, device_of, evaluating, nothing, random_states_kept, run
from truenorm.model.freeze import is_frozen
from truenorm.model.layers import batch_norms, is_program, refuse_programs, refuse_without_numbers, unwrap
from truenorm.model.mask import Mask, valid_positions
from truenorm.model.observe import LayerMoments
from truenorm.model.statistics import using
from truenorm.rules import Population, Rule, Within
from truenorm.stats.provenance import Flow, Variance
from truenorm.stats.shift import estimation_shift
from truenorm.stats.statistics import Statistics

EXACT = 1e-4
"""Rounds of the sequential flow end when no layer is off by more than this, in σ."""


def measure(
    model: nn.Module,
    data: Iterable[Any],
    *,
    flow: Flow = "joint",
    forward: Forward | None = None,
    mask: Mask | None = None,
    limit: int | None = None,
    tolerance: float | None = None,
    variance: Variance = "pooled",
    memory: int = 2**31,
) -> Statistics:
    """The statistics of each layer's input over data, pooled over all values (Chan, float64).

    - `joint`: every layer normalises by its batch while all are measured. What running statistics estimate;
      depends on the batch size of `data`: give it that of training.
    - `sequential`: every layer sees what it will see at inference. Exact: with these assigned, evaluation
      on the same data gives each layer the moments it divides by.
    - `eval`: what arrives at each layer with the buffers as they are. Buffers are right if they equal it.

    Dropout and all else stay as in evaluation. Layers that are frozen (by `freeze`, by evaluation mode while the model
    trains, or by a class that never trains) stay so. What a layer of another make depends on is found out by calling a
    copy of it with a few rows of its first input. Buffers,
    counts, modes, hooks and random state come out as they were, whatever happens in between.

    Args:
        model: the network, on its device; batches are moved there.
        data: an iterable of batches: tensors, or tuples, lists or mappings that hold the images.
            `sequential` reads it more than once unless it fits into `memory`.
        flow: see above.
        forward: how to run a batch, `forward(model, batch)`, where `model(images)` is not it.
        mask: `mask(batch)` gives the valid positions of a batch, so that padding stays out of every moment: a boolean
            tensor, True where valid, with the shape of a layer's input without channels: (B, L) for sequences, (B, H,
            W) for images; or several, one for each resolution of the network. Each layer takes the one of its shape.
            An input of flattened positions, (B·L, C), takes the mask of B·L elements, flattened in its order. An input
            of the valid positions alone (packed), or of one row for each sample (after pooling), needs none. `mask` is
            given what `forward` is given, and must depend on that alone. Each layer is normalised by the moments of
            its valid positions in `joint`; `sequential` makes rounds.
        limit: stop after this many samples.
        tolerance: stop once the standard error of every layer's mean, √(D/N), is below this, in σ. Batches must
            come shuffled: sorted ones look more certain than they are. Not for `sequential`.
        variance: `pooled`, of the population; or `within`, the mean of the batches' own biased variances,
            which at tiny batches the weights may prefer.
        memory: bytes that one giant batch may take in `sequential`; beyond, rounds are made.

    Returns:
        a mapping in the order in which layers were called, with counts (of valid positions) and `provenance`: flow,
        samples, rounds, layers that were skipped.

    Raises:
        InvalidInput: no batches, an unknown flow, a batch of one value per channel, a tolerance that is not
            positive or is asked of `sequential`; a mask that is not boolean, or has no valid position.
        NotMeasurable: no layer was reached, values that are not finite, a layer called twice in the
            sequential flow (it has no such statistics), or a layer whose input no mask fits.

    Source: pooling after Chan, Golub & LeVeque 1983; the joint pass as in "precise" BN, Wu & Johnson 2021.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> population = measure(net, [torch.randn(32, 4) for _ in range(4)])
        >>> population["1"].count, population.provenance.flow
        (128, 'joint')

        Sequences, padded to 6 positions:

        >>> net = nn.Sequential(nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3))
        >>> padded, lengths = torch.randn(2, 4, 6), torch.tensor([6, 2])
        >>> batches, valid = [(padded, lengths)], lambda batch: torch.arange(6) < batch[1][:, None]
        >>> measure(net, batches, mask=valid)["1"].count
        8
    """
    if flow not in get_args(Flow):
        raise UnknownName("flow", flow, get_args(Flow))
    if variance not in get_args(Variance):
        raise UnknownName("variance", variance, get_args(Variance))
    if flow == "sequential" and variance != "pooled":
        raise InvalidInput("the sequential flow has no batches to be within; variance='within' is of joint and eval")
    if tolerance is not None and (flow == "sequential" or not tolerance > 0):
        raise InvalidInput(
            f"tolerance is {tolerance:g} in the flow {flow!r}; expected a positive number of σ, and joint or eval"
        )
    rule = Population() if variance == "pooled" else Within()
    with random_states_kept(model):
        if flow == "sequential":
            return _sequential(model, data, forward, mask, limit, memory)
        batches = batches_of(data, limit=limit)
        return _pooled(model, batches, flow, forward, mask, rules=(rule,), tolerance=tolerance)[0]


def frozen_layers(model: nn.Module) -> list[str]:
    """Layers that a pass leaves alone: held by `freeze`, or in evaluation mode while the model trains.

    Example:
        >>> frozen_layers(nn.Sequential(nn.BatchNorm1d(2).eval()))
        ['0']
    """
    layers, training = batch_norms(model), unwrap(model).training
    return [name for name, layer in layers.items() if is_frozen(layer) or (training and not layer.training)]


def joint_estimates(
    model: nn.Module,
    data: Iterable[Any],
    *,
    forward: Forward | None = None,
    mask: Mask | None = None,
    tolerance: float | None = None,
    frozen: list[str] | None = None,
    prepare: Prepare = nothing,
) -> tuple[Statistics, Statistics]:
    """Statistics of the joint flow with either variance, pooled and within batches, from one pass.

    `frozen` names the layers to leave alone; None: those that `frozen_layers` finds or whose class never trains.
    `prepare` is done to the model in evaluation mode; what it changes beside modes and batch norm is not undone.
    """
    rules = (Population(), Within())
    with random_states_kept(model):
        batches = batches_of(data, limit=None)
        pooled, within = _pooled(
            model, batches, "joint", forward, mask, rules=rules, tolerance=tolerance, frozen=frozen, prepare=prepare
        )
    return pooled, within


def settled(
    model: nn.Module,
    batches: Sequence[Any],
    start: Statistics,
    *,
    forward: Forward | None = None,
    mask: Mask | None = None,
    rounds: int = 4,
) -> Statistics:
    """The sequential flow where samples cannot be joined: rounds of the eval flow from the statistics of the joint one.

    In a round every layer that is in `start` takes what arrives with the numbers of the round before, until no layer
    moves by more than 1e-2 σ.

    Example:
        >>> net, batches = nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(8, 2)] * 2
        >>> found = settled(net, batches, measure(net, batches))
        >>> list(found)
        ['0']
    """
    found = start
    for _ in range(rounds):
        with using(model, found):
            arriving = measure(model, batches, flow="eval", forward=forward, mask=mask)
        arriving = Statistics({name: moments for name, moments in arriving.items() if name in found})
        moved = estimation_shift(found, arriving).worst.shift
        found = Statistics(dict(arriving), provenance=arriving.provenance)
        if moved < _SETTLED:
            break
    return found


_SETTLED = 1e-2
"""σ; layers that move by less in a round are where they stay, for samples of this size."""


def _sequential(
    model: nn.Module,
    data: Iterable[Any],
    forward: Forward | None,
    mask: Mask | None,
    limit: int | None,
    memory: int,
) -> Statistics:
    """One giant batch where it fits: its batch statistics are the sequential ones. Else, and with a mask, rounds."""
    if isinstance(data, Iterator):
        data = list(batches_of(data, limit=limit))  # a one-shot iterator: it is needed twice
    giant = None if mask is not None else _one_batch(model, data, forward, limit, memory)
    if giant is not None:
        return _called_once(_pooled(model, iter([giant]), "sequential", forward, None)[0])
    totals: list[list[float]] = []

    def batches() -> Iterator[Batch]:
        totals.append([])
        return _totalled(batches_of(data, limit=limit), totals[-1])

    found = _called_once(_pooled(model, batches(), "joint", forward, mask)[0])
    # In a round every layer moves to what arrives with the buffers of the round before; the first layer
    # that was wrong is right afterwards, so there are at most as many rounds as layers.
    rounds, residual, provenance = 0, float("inf"), found.provenance
    while residual > EXACT and rounds <= len(found):
        with using(model, found):
            arriving = _pooled(model, batches(), "eval", forward, mask)[0]
        # Values arrive at layers that take no batches, too (frozen ones): theirs are not ours to set.
        arriving = Statistics({name: moments for name, moments in arriving.items() if name in found})
        residual = estimation_shift(found, arriving).worst.shift
        found = arriving
        rounds += 1
    same = all(len(t) == len(totals[0]) and math.isclose(sum(t), sum(totals[0]), rel_tol=1e-9) for t in totals)
    differ = "images" if not same else "order" if any(t != totals[0] for t in totals) else None
    provenance = replace(provenance, flow="sequential", rounds=rounds, residual=residual, passes_differ=differ)
    return Statistics(dict(found), provenance=provenance)


def _totalled(batches: Iterator[Batch], totals: list[float]) -> Iterator[Batch]:
    """The batches, and for each what tells it from another: the sum of its images."""
    for batch in batches:
        # Of other batches only the user's forward knows what is in them.
        totals.append(0.0 if batch.images is None else batch.images.double().abs().sum().item())
        yield batch


def _called_once(found: Statistics) -> Statistics:
    """Refuse layers that see several populations."""
    if found.provenance.repeated:
        raise NotMeasurable(
            f"layer {found.provenance.repeated[0]!r} is called more than once per forward: it sees several "
            "populations and has no sequential statistics; measure the joint flow, or give each call a layer of its own"
        )
    return found


_LOOK_EVERY = 8
"""Batches between two looks at the standard error."""


def _pooled(
    model: nn.Module,
    batches: Iterator[Batch],
    flow: Flow,
    forward: Forward | None,
    mask: Mask | None,
    *,
    rules: tuple[Rule, ...] = (Population(),),
    tolerance: float | None = None,
    frozen: list[str] | None = None,
    prepare: Prepare = nothing,
) -> list[Statistics]:
    """One pass: moments of each layer's batches, or (eval) of what arrives at it, pooled; by each rule."""
    layers = batch_norms(model)
    refuse_programs(model)
    refuse_without_numbers(model)
    held = frozen_layers(model) if frozen is None else frozen
    observed = LayerMoments(layers, rules)
    seen = 0
    looking = observed.observing() if flow == "eval" else observed.normalising(held, leave_fixed=frozen is None)
    with evaluating(model, prepare=prepare), looking:
        for number, batch in enumerate(batches, start=1):
            seen += batch.size
            here = batch.to(device_of(model))
            observed.start_batch(valid_positions(mask, here.original))
            run(model, here, forward)
            observed.end_batch()
            if tolerance is not None and number % _LOOK_EVERY == 0 and observed.standard_error() <= tolerance:
                break
    return observed.result(flow, seen, held, tolerance)


def _one_batch(
    model: nn.Module, data: Iterable[Any], forward: Forward | None, limit: int | None, memory: int
) -> Batch | None:
    """All images as one batch, if they are plain tensors and fit; None if not."""
    if forward is not None:
        return None  # only the caller knows how its batches are joined
    batches = batches_of(data, limit=limit)
    first = next(batches).images
    if first is None:
        return None
    largest = bytes_per_sample(model, first)
    parts, total = [first], len(first)
    for batch in batches:
        images = batch.images
        if images is None:
            return None
        total += len(images)
        # Input, output and a temporary of the widest layer are alive at once; branches add a few.
        if images.shape[1:] != first.shape[1:] or 4 * largest * total > memory:
            return None
        parts.append(images)
    return Batch.of(torch.cat(parts)) if 4 * largest * total <= memory else None


def bytes_per_sample(model: nn.Module, images: Tensor) -> float:
    """Bytes per sample of the widest activation of an evaluation forward."""
    largest = float(images[:1].nbytes)

    def widen(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes / min(2, len(images)))

    refuse_programs(model)
    modules = [module for module in model.modules() if not is_program(module)]  # a program takes no hooks
    handles = [module.register_forward_hook(widen) for module in modules]
    try:
        with evaluating(model):
            run(model, images[:2])
    finally:
        for handle in handles:
            handle.remove()
    return largest

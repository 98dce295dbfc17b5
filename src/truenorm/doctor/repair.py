"""`truenorm.repair`: statistics from a pass over data, if they are shown not to harm; else nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from truenorm.data.batches import batches_of
from truenorm.data.sample import Sample, take_sample
from truenorm.doctor import words
from truenorm.doctor.examine import exact_statistics
from truenorm.doctor.rows import independent
from truenorm.doctor.score import AS_IS, Score, Scored, best_estimate, scored
from truenorm.doctor.size import LIMIT
from truenorm.errors import InvalidInput, MissingFunction
from truenorm.metrics.intervals import Interval
from truenorm.model.evaluate import Forward, seeded
from truenorm.model.gather import all_or_none, gathered, num_processes
from truenorm.model.layers import refuse_without_numbers
from truenorm.model.mask import Mask
from truenorm.model.measure import joint_estimates
from truenorm.model.statistics import assign, statistics
from truenorm.show import Table, number, plain
from truenorm.stats.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Repair:
    """What was done.

    Args:
        chosen: the estimate that was assigned (`joint`, `within`, `sequential`); None if nothing was changed.
        previous: what the layers carried; `assign(model, repair.previous)` is the undo.
        statistics: what they carry now.
        scores: on held-out samples, by statistics ("as it is" is before) and metric.
        gains: of each estimate over what was there, by metric: paired, 95 %.
        measured: samples that were measured.
        batch_size: of these samples.
        scored: samples that were scored.
        held_out: which these are: `given`, `others` of the data, or `the measured` themselves.

    Example:
        >>> import torch, truenorm as tn
        >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
        >>> tn.repair(net, [torch.randn(64, 2) + 3] * 4, score=lambda y, x: -y.square().mean(1)).chosen
        'joint'
    """

    chosen: str | None
    previous: Statistics
    statistics: Statistics
    scores: Mapping[str, Mapping[str, float]]
    gains: Mapping[str, Mapping[str, Interval]]
    measured: int
    batch_size: int
    scored: int
    held_out: Literal["given", "others", "the measured"]

    @property
    def before(self) -> Mapping[str, float]:
        """The scores before, by metric."""
        return self.scores[AS_IS]

    @property
    def sentence(self) -> str:
        """Before and after, in one line."""
        return words.repaired(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was measured, in sentences."""
        return (words.measured(self),)

    def __repr__(self) -> str:
        """One line."""
        after = {} if self.chosen is None else self.scores[self.chosen]
        changes = [f", {metric} {number(self.before[metric])} → {number(value)}" for metric, value in after.items()]
        return f"Repair(chosen={self.chosen!r}{''.join(changes)})"

    def table(self) -> Table:
        """A row for each kind of statistics."""
        metrics = list(next(iter(self.scores.values()), {}))
        rows = [
            (
                ("as it was" if name == AS_IS else name) + (" ← assigned" if name == self.chosen else ""),
                *(number(scores[metric], 4) for metric in metrics),
            )
            for name, scores in self.scores.items()
        ]
        return Table(
            title="the same weights, held-out samples",
            columns=("statistics", *metrics),
            rows=tuple(rows),
        )

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self.table().__rich__(), *(Text(line) for line in (self.sentence, *self.notes)))

    def __str__(self) -> str:
        """What `print` shows: the same as a terminal."""
        return plain(self)

    def _repr_html_(self) -> str:
        from html import escape

        return self.table().to_html() + "".join(f"<p>{escape(line)}</p>" for line in (self.sentence, *self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"chosen": self.chosen, "scores": {name: dict(s) for name, s in self.scores.items()}}


def repair(
    model: nn.Module,
    data: Iterable[Any],
    *,
    held_out: Iterable[Any] | None = None,
    score: Score | None = None,
    forward: Forward | None = None,
    mask: Mask | None = None,
    tolerance: float | None = None,
    limit: int | None = None,
) -> Repair:
    """Measure the statistics anew, and put them in if they do better on held-out samples; else change nothing.

    Pooled, float64, each value weighing the same (Chan), dropout off, frozen layers respected. Three estimates are
    tried: `joint` (with the batch size of `data`: give it that of training), `within` (the mean of the batches'
    own variances, which weights trained with tiny batches may prefer) and `sequential` (one giant batch: exactly
    what inference sees). The one that gains most is assigned; none, if none gains beyond its interval.

    In a process group every process gives its share of the data; one reduction merges them, and all decide alike.

    Args:
        model: the network, changed in place or not at all.
        data: training batches, with the transforms of inference, shuffled; read once.
        held_out: batches to decide by; None holds out some of `data`, which are then not measured.
        score: as for `diagnose`; needed where the batches hold no labels that fit the output.
        forward: how to run a batch.
        mask: as for `diagnose`.
        tolerance: stop measuring once the standard error of all means is below this, in σ.
        limit: stop measuring after this many samples.

    Returns:
        what was chosen and what it gave. `assign(model, repair.previous)` undoes it.

    Raises:
        InvalidInput: no batches, values that are not finite, nothing to score by (`assign(model, measure(model,
            data))` needs no score, and says nothing of whether it helps), a mask that is not boolean.
        NotMeasurable: no batch-norm layer is reached, or no mask fits a layer's input.

    Source: recalibration as in "precise" BN, Wu & Johnson 2021; the choice by held-out score is ours.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> x = torch.randn(256, 4) + 3
        >>> done = repair(net, [(a, (a[:, 0] > 3).long()) for a in x.split(32)], score=lambda y, b: -y.abs().mean(1))
        >>> _ = assign(net, done.previous)
    """
    with seeded(model, data, held_out):
        return _repaired(model, data, held_out, score, forward, mask, tolerance, limit)


def _repaired(
    model: nn.Module,
    data: Iterable[Any],
    held_out: Iterable[Any] | None,
    score: Score | None,
    forward: Forward | None,
    mask: Mask | None,
    tolerance: float | None,
    limit: int | None,
) -> Repair:
    if tolerance is not None and not tolerance > 0:
        raise InvalidInput(f"tolerance is {tolerance:g}; expected a positive number of σ")
    with all_or_none():
        refuse_without_numbers(model)
        batches = batches_of(data, limit=limit)
        sample = take_sample(batches, limit=LIMIT if limit is None else min(limit, LIMIT))
        apart = independent(model, sample, forward)
        sample = replace(sample, joined=sample.joined if apart else None, whole=forward is not None)
        judged, measured = _parts(sample, held_out)
        own = {AS_IS: _judged(model, judged, None, score, forward)}
        joint, within = joint_estimates(
            model, chain(measured.batches, batches), forward=forward, mask=mask, tolerance=tolerance
        )
        exact = exact_statistics(model, measured, forward, mask, joint)
        estimates = {"joint": joint, "within": within, "sequential": exact}
    estimates = gathered(model, estimates)
    with all_or_none():
        own |= {name: _judged(model, judged, estimate, score, forward) for name, estimate in estimates.items()}
    scores = {name: _everyone(part) for name, part in own.items()}
    gains = {name: scores[name].gain(scores[AS_IS]) for name in estimates}
    chosen = best_estimate(scores)
    previous = statistics(model)
    if chosen is not None:
        assign(model, estimates[chosen])
    return Repair(
        chosen=chosen,
        previous=previous,
        statistics=statistics(model),
        scores={name: {metric: part.mean(metric) for metric in part.values} for name, part in scores.items()},
        gains=gains,
        measured=joint.provenance.samples or 0,
        batch_size=measured.batch_size,
        scored=len(judged),
        held_out="given" if held_out is not None else "the measured" if judged is measured else "others",
    )


def _parts(sample: Sample, held_out: Iterable[Any] | None) -> tuple[Sample, Sample]:
    """What is scored and what is measured."""
    if held_out is not None:
        return take_sample(held_out, limit=LIMIT), sample
    measured, judged = sample.parts(_MEASURED)
    return judged, measured


_MEASURED = 0.75
"""Share of a sample that is measured where some must be held out."""


def _judged(
    model: nn.Module, sample: Sample, estimate: Statistics | None, score: Score | None, forward: Forward | None
) -> Scored:
    values = scored(model, sample, statistics=estimate, score=score, forward=forward)
    if values is None:
        raise MissingFunction(
            "nothing says whether other statistics do better: the batches hold no labels that fit the model's output",
            "score",
        )
    return values


def _everyone(own: Scored) -> Scored:
    """The scores of all processes, in rank order: all choose alike."""
    if num_processes() == 1:
        return own
    everyone: list[dict[str, torch.Tensor]] = [{} for _ in range(num_processes())]
    torch.distributed.all_gather_object(everyone, dict(own.values))
    return Scored({metric: torch.cat([part[metric] for part in everyone]) for metric in own.values})

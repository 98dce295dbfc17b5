"""What statistics are worth: the user's own score on held-out samples, the same weights, paired."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.data.sample import Sample
from truenorm.doctor.target import ACCURACY, LIKELIHOOD, Kind, logits_in, rate, target_of
from truenorm.errors import InvalidInput, TruenormError
from truenorm.metrics.intervals import Interval, paired
from truenorm.model.evaluate import Forward, Prepare, device_of, evaluating, nothing, run
from truenorm.stats.moments import Moments

Score = Callable[[Any, Any], Any]
"""`score(output, batch)`: a number, or one for each sample; more is better (give a loss its minus)."""

OWN = "score"
"""The metric of a score of the user's."""

ESTIMATORS = ("joint", "sequential", "within")
"""Statistics that a pass can give: pooled; of one giant batch; with the mean of the batches' own variances."""

AS_IS, BY_BATCH = "as it is", "batch"
"""Names of scores: of the network as it is, and with each batch's own statistics."""

_LARGE = 10.0
"""Times what is relevant, from which on a gain of the first metric outweighs losses of others."""

_SIGNS = 3.3
"""Standard deviations of the number of signs of one kind beyond which they are no chance."""

_FAR = 25.0
"""Times what is relevant, from which on a gain counts though no layer is off beyond noise."""

_ROUNDING = 2.0**-20
"""Of a score, relative: eight units in the last place of float32."""

RELEVANT = {ACCURACY: 0.002, LIKELIHOOD: 0.02}
"""The smallest gain that counts: 0.2 points of accuracy, 0.02 nats for each sample."""

RELEVANT_SHARE = 0.02
"""Of other metrics: this share of the standard deviation of the score over samples."""

TRIED = len(ESTIMATORS)
"""Statistics that are compared with those stored; the more are tried, the wider an interval has to be to hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The scores of held-out samples (or batches) under some statistics, by metric; more is better.

    Args:
        values: of each sample, by metric.
        kind: what the labels were taken for; None for a score of the user's.
    """

    values: Mapping[str, Tensor]
    kind: Kind | None = None

    def mean(self, metric: str) -> float:
        return self.values[metric].mean().item()

    def __len__(self) -> int:
        """Samples (or batches) that were scored."""
        return len(next(iter(self.values.values())))

    @property
    def first(self) -> float:
        """The mean of the first metric."""
        return self.mean(next(iter(self.values)))

    def gain(self, over: "Scored") -> dict[str, Interval]:
        """By metric: the paired difference with its 95 % interval.

        A score that is no number (NaN, inf) counts as worse than any that is one.

        Raises:
            InvalidInput: no score is a finite number.
        """
        gains: dict[str, Interval] = {}
        for metric, values in self.values.items():
            ours, theirs = _finite(values, over.values[metric])
            if metric == ACCURACY and len(values) > 1:
                resolution = 1 / len(values)
            else:  # outputs are float32: two estimates that are equal but for rounding gain nothing
                resolution = _ROUNDING * float(torch.maximum(ours.abs().max(), theirs.abs().max()))
            gains[metric] = paired(ours.tolist(), theirs.tolist(), resolution=resolution)
        return gains

    def beats(self, other: "Scored") -> bool:
        """Whether a metric gains beyond noise and by more than `relevant`, and none loses beyond its interval.

        A gain of the first metric that is ten times as much counts whatever the others lose: right answers that come
        with too much confidence are right. With k comparisons (what was tried times the metrics) an interval is taken
        at the level 1 − 0.05/k (Bonferroni).
        """
        gain = self.gain(other)
        wider = _quantile(TRIED * len(gain)) / _quantile(1)
        lost = any(part.high is not None and part.high < 0 for part in gain.values())
        gained = [
            part.mean / (other.relevant(metric) or part.mean)
            if part.half_width is not None and part.mean > max(other.relevant(metric), wider * part.half_width)
            else 0.0
            for metric, part in gain.items()
        ]
        return gained[0] >= _LARGE if lost else any(gained)

    def is_better_sample_by_sample(self, other: "Scored") -> bool:
        """Whether the first metric gains in the mean, and on so many more samples than it loses that it is no chance.

        A sign test at about 0.001: errors may have tails in which intervals of their means drown.
        """
        metric = next(iter(self.values))
        ours, theirs = _finite(self.values[metric], other.values[metric])
        won, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
        return self.gain(other)[metric].mean > other.relevant(metric) and won - lost > _SIGNS * math.sqrt(won + lost)

    def is_far_above(self, other: "Scored") -> bool:
        """Whether the first metric gains what counts even where no layer is off: 5 points of accuracy."""
        metric = next(iter(self.values))
        return self.gain(other)[metric].mean >= _FAR * other.relevant(metric) > 0

    def relevant(self, metric: str) -> float:
        """The smallest gain over these scores that counts."""
        if metric in RELEVANT:
            return RELEVANT[metric]
        values = self.values[metric]
        values = values[values.isfinite()]
        return RELEVANT_SHARE * float(values.std()) if len(values) > 1 else 0.0


def scored(
    model: nn.Module,
    sample: Sample,
    *,
    statistics: Mapping[str, Moments] | None = None,
    score: Score | None = None,
    forward: Forward | None = None,
    prepare: Prepare = nothing,
) -> Scored | None:
    """Evaluate under some statistics; the model is left as it was.

    Args:
        model: the network.
        sample: what to evaluate on.
        statistics: what to evaluate it with; None: as it is.
        score: see `Score`; None rates the labels that the batches hold (`truenorm.doctor.target`).
        forward: how to run a batch.
        prepare: done to the model in evaluation mode, such as waking its dropout.

    Returns:
        the scores; None where there are neither labels that fit the output nor a score.

    Raises:
        InvalidInput: the score gives no number, or the classes are not the model's.
    """
    scores: dict[str, list[Tensor]] = {}
    target = None
    with evaluating(model, statistics, prepare):
        for batch in sample.batches:
            here = batch.to(device_of(model))
            output = run(model, here, forward)
            if score is not None:
                values = {OWN: _own(score, output, here.raw)}
            else:
                logits = logits_in(output)
                if target is None:
                    labels = [part.labels for part in sample.batches]
                    known = [label for label in labels if label is not None]
                    target = None if logits is None or len(known) < len(labels) else target_of(logits, known)
                if logits is None or target is None or len(logits) != here.size:
                    return None
                values = rate(target, logits, here)
            for metric, tensor in values.items():
                scores.setdefault(metric, []).append(tensor.detach().double().cpu())
    joined = {metric: torch.cat(parts) for metric, parts in scores.items()}
    if not all(map(len, joined.values())):
        return None  # no position of any sample has a class
    return Scored(joined, None if target is None else target.kind)


def best_estimate(scores: Mapping[str, Scored]) -> str | None:
    """The first estimate that beats what is stored, unless a later one beats it, too; None: what is stored is best."""
    best = None
    for name in ESTIMATORS:
        if name in scores and scores[name].beats(scores[best or AS_IS]):
            best = name
    return best


def samples_to_decide(gain: Interval, metrics: int) -> int:
    """About as many samples as tell this gain from noise, were it what it seems: n (w/g)².

    Example:
        >>> samples_to_decide(Interval(1.0, 1.0, 100), metrics=2)
        182
    """
    assert gain.half_width is not None
    wider = _quantile(TRIED * metrics) / _quantile(1)
    return math.ceil(gain.n * (wider * gain.half_width / gain.mean) ** 2)


def _quantile(comparisons: int) -> float:
    """Of the normal distribution, two-sided, at the level 1 − 0.05/k."""
    return NormalDist().inv_cdf(1 - 0.025 / comparisons)


def _finite(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([a, b])
    known = both[both.isfinite()]
    if len(known) == len(both):
        return a, b
    if not len(known):
        raise InvalidInput("score(output, batch) gave no finite number, neither as it is nor with other statistics")
    below = known.min() - max(float(known.max() - known.min()), 1.0)
    return torch.where(a.isfinite(), a, below), torch.where(b.isfinite(), b, below)


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _own(score: Score, output: Any, batch: Any) -> Tensor:
    try:
        value = score(output, batch)
    except TruenormError:
        raise
    except Exception as error:  # whatever the user's function raises is reported as theirs
        raise InvalidInput(f"score(output, batch) failed: {type(error).__name__}: {error}") from error
    if isinstance(value, Tensor) and value.ndim == 1 and len(value):
        return value
    try:
        return torch.tensor([float(value)])
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"score(output, batch) gave {_described(value)}; expected a number, or a tensor of one for each sample"
        ) from error

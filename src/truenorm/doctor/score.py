"""What statistics are worth: the user's own score on held-out samples, the same weights, paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.data.batches import Batch
from truenorm.data.sample import Sample
from truenorm.errors import InvalidInput, MissingFunction, TruenormError
from truenorm.metrics.intervals import Interval, paired
from truenorm.model.evaluate import Forward, device_of, evaluating, run
from truenorm.stats.moments import Moments

Score = Callable[[Any, Any], Any]
"""`score(output, batch)`: a number, or one for each sample; more is better (give a loss its minus)."""

ACCURACY, LIKELIHOOD, OWN = "accuracy", "log likelihood", "score"
"""Metrics."""

AS_IS, BY_BATCH = "as it is", "batch"
"""Names of scores: of the network as it is, and with each batch's own statistics."""

_ROUNDING = 2.0**-20
"""Of a score, relative: eight units in the last place of float32."""

_LEAST = 1e-12
"""Probability below which a prediction is simply wrong: NaN counts as it, too."""

WORTH = {ACCURACY: 0.0, LIKELIHOOD: 0.02, OWN: 0.0}
"""Gains that are shown but smaller than this are not worth a repair (nats; shares have no such bound)."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The scores of held-out samples (or batches) under some statistics, by metric; more is better."""

    values: Mapping[str, Tensor]

    def mean(self, metric: str) -> float:
        return self.values[metric].mean().item()

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


def scored(
    model: nn.Module,
    sample: Sample,
    *,
    statistics: Mapping[str, Moments] | None = None,
    score: Score | None = None,
    forward: Forward | None = None,
    prepare: Callable[[nn.Module], None] = lambda model: None,
) -> Scored | None:
    """Evaluate under some statistics; the model is left as it was.

    Args:
        model: the network.
        sample: what to evaluate on.
        statistics: what to evaluate it with; None: as it is.
        score: see `Score`; None takes accuracy and log likelihood, where there are classes.
        forward: how to run a batch.
        prepare: done to the model in evaluation mode, such as waking its dropout.

    Returns:
        the scores; None where there are neither classes nor a score.

    Raises:
        InvalidInput: the score gives no number, or the classes are not the model's.
    """
    scores: dict[str, list[Tensor]] = {}
    with evaluating(model, statistics):
        prepare(model)
        for batch in sample.batches:
            here = batch.to(device_of(model))
            output = run(model, here, forward)
            values = _classified(output, here) if score is None else {OWN: _own(score, output, here.raw)}
            if values is None:
                return None
            for metric, tensor in values.items():
                scores.setdefault(metric, []).append(tensor.detach().double().cpu())
    return Scored({metric: torch.cat(parts) for metric, parts in scores.items()})


def is_gain(gain: Mapping[str, Interval]) -> bool:
    """Does any metric gain beyond noise and by what is worth it, and none lose beyond its interval?

    Six intervals are looked at (three estimates, two metrics), so one is wider here than it is shown.

    Example:
        >>> is_gain({"score": Interval(1.0, 0.5, 9)}), is_gain({"score": Interval(1.0, 1.5, 9)})
        (True, False)
    """
    lost = any(part.high is not None and part.high < 0 for part in gain.values())
    return not lost and any(
        part.half_width is not None and part.mean > max(WORTH[metric], _SIX * part.half_width)
        for metric, part in gain.items()
    )


_SIX = 2.638 / 1.960
"""Bonferroni: the normal quantile of 0.05/6 over that of 0.05, two-sided."""


def _finite(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([a, b])
    known = both[both.isfinite()]
    if len(known) == len(both):
        return a, b
    if not len(known):
        raise InvalidInput("score(output, batch) gave no finite number, neither as it is nor with other statistics")
    below = known.min() - max(float(known.max() - known.min()), 1.0)
    return torch.where(a.isfinite(), a, below), torch.where(b.isfinite(), b, below)


def logits_in(output: Any) -> Tensor | None:
    """The tensor of a network's output: itself, its `logits`, the first of several; None where there is none.

    Example:
        >>> logits_in((torch.ones(2, 3), None)).shape
        torch.Size([2, 3])
    """
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple | list) and output else output)
    return logits if isinstance(logits, Tensor) else None


def _classified(output: Any, batch: Batch) -> dict[str, Tensor] | None:
    labels = batch.classes
    logits = logits_in(output)
    if labels is None or logits is None or logits.ndim != 2 or len(logits) != len(labels):
        return None
    labels = labels.long()
    if logits.shape[1] == 1:  # one logit for the second of two classes
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    odd = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(odd):
        raise MissingFunction(
            f"the data have a class {int(odd[0])}, the model gives {logits.shape[1]} of them (0 is the first): "
            "either it is not the model of these data, or these labels are not classes and need a score of their own",
            "score",
        )
    chosen = F.log_softmax(logits.double(), 1).gather(1, labels[:, None]).squeeze(1)
    right = logits.argmax(1) == labels
    finite = logits.isfinite().all(1)
    floor = torch.tensor(_LEAST, dtype=torch.float64).log().to(chosen)
    return {
        ACCURACY: (right & finite).double(),
        LIKELIHOOD: torch.where(finite, chosen, floor).clamp_min(floor),
    }


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

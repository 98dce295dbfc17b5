"""How well outputs fit the labels of their batches: which kind of labels they are, and a value for each sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from truenorm.data.batches import Batch
from truenorm.errors import MissingFunction

Kind = Literal["classes", "class probabilities", "classes of positions", "several labels", "values"]
"""One class for each sample; one probability for each class; a class for each position (masks, sequences); any number
of labels for each sample; numbers of the output's shape."""

ACCURACY, LIKELIHOOD, SQUARED = "accuracy", "log likelihood", "minus squared error"
"""Metrics."""

IGNORED = (255, -100, -1)
"""Classes of positions that mean "no class here"; the second is torch's `ignore_index`."""

_LEAST = 1e-12
"""Probability below which a prediction is simply wrong: NaN counts as it, too."""

_OUTPUTS = ("logits", "out", "output", "prediction", "predictions")
"""Keys under which the tensor of a mapping that a network returns is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is assumed of labels.

    Args:
        kind: see `Kind`.
        class_dim: the dimension of the output that holds the classes; None without classes.
        probabilities: whether outputs are taken for probabilities: they lie in [0, 1], and sum to 1 over classes.
    """

    kind: Kind
    class_dim: int | None = None
    probabilities: bool = False


def logits_in(output: Any) -> Tensor | None:
    """The tensor of a network's output: itself, its `logits` or `out`, the first of several; None where there is none.

    Example:
        >>> logits_in((torch.ones(2, 3), None)).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Mapping):
        mapping = cast(Mapping[Any, Any], output)
        output = next((mapping[key] for key in _OUTPUTS if key in mapping), None)
    elif isinstance(output, tuple | list):
        several = cast(Sequence[Any], output)
        output = several[0] if several else None
    logits = getattr(output, "logits", output)
    return logits if isinstance(logits, Tensor) else None


def target_of(logits: Tensor, labels: Sequence[Tensor]) -> Target | None:
    """What labels are to such an output; None where they do not fit.

    Args:
        logits: the output for the first batch.
        labels: of all batches.

    Example:
        >>> target_of(torch.zeros(2, 3, 8, 8), [torch.zeros(2, 8, 8, dtype=torch.int64)])
        Target(kind='classes of positions', class_dim=1, probabilities=False)
    """
    target = _target_of(logits, labels)
    if target is None or target.kind == "values":
        return target
    share = bool(((logits >= 0) & (logits <= 1)).all())
    sums = target.class_dim is None or logits.ndim < 2 or logits.shape[target.class_dim] == 1
    if share and not sums:
        assert target.class_dim is not None
        total = logits.double().sum(target.class_dim)
        sums = torch.allclose(total, torch.ones_like(total), atol=1e-3)
    return replace(target, probabilities=share and sums)


def _target_of(logits: Tensor, labels: Sequence[Tensor]) -> Target | None:
    first = labels[0]
    shape: tuple[int, ...] = tuple(logits.shape)
    target: tuple[int, ...] = tuple(first.shape)
    if min(len(shape), len(target)) < 1 or not logits.is_floating_point() or first.is_complex():
        return None
    samples = len(logits)
    if samples != len(first):
        return None
    if not first.is_floating_point():
        if len(shape) <= 2 and target in ((samples,), (samples, 1)):
            single = len(shape) == 1 or logits.shape[1] == 1
            numbers = single and any(bool(((part < 0) | (part > 1)).any()) for part in labels)
            return Target(kind="values") if numbers else Target(kind="classes", class_dim=1)
        if target in (_without(shape, 1), (samples, 1, *shape[2:])):
            return Target(kind="classes of positions", class_dim=1)
        if target == shape[:-1]:
            return Target(kind="classes of positions", class_dim=len(shape) - 1)
    if _squeezed(target) != _squeezed(shape):
        return None
    if all(bool(((part == 0) | (part == 1)).all()) for part in labels):
        single = len(shape) == 2 and shape[1] > 1 and all(bool((part.sum(1) == 1).all()) for part in labels)
        return Target(kind="class probabilities", class_dim=1) if single else Target(kind="several labels")
    if not first.is_floating_point():
        return None
    if len(shape) == 2 and shape[1] > 1:
        if all(map(_is_distribution, labels)):
            return Target(kind="class probabilities", class_dim=1)
        if all(map(_is_share, labels)) and not _is_share(logits):
            return None  # soft labels, or numbers that happen to lie in [0, 1]: nothing says which
    return Target(kind="values")


def rate(target: Target, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """A value for each sample of a batch, by metric; more is better.

    - `classes`, `class probabilities`: accuracy and log likelihood, Σ p log softmax.
    - `classes of positions`: the same, means over the positions that have a class; samples without any are left out.
    - `several labels`: the share of labels that are right, and the mean log likelihood under a sigmoid of each.
    - `values`: minus the mean squared error.

    Raises:
        MissingFunction: a class that the output does not have.
    """
    labels = batch.labels
    assert labels is not None
    if target.probabilities:
        logits = _as_logits(target, logits)
    if target.kind == "values":
        error = (logits.double() - labels.to(logits.device).double().reshape(logits.shape)).square()
        return {SQUARED: -error.reshape(len(error), -1).mean(1)}
    if target.kind == "several labels":
        return _several(logits, labels.reshape(logits.shape))
    if target.kind == "class probabilities":
        log = _log_softmax(logits, 1)
        return _with_floor((log * labels).sum(1), logits.argmax(1) == labels.argmax(1), logits.isfinite().all(1))
    # One logit stands for the second of two classes.
    if logits.ndim <= 1 or (logits.shape[1] == 1 and target.kind == "classes"):
        logits = torch.stack([torch.zeros(len(logits)).to(logits), logits.reshape(len(logits))], 1)
    assert target.class_dim is not None
    logits = logits.movedim(target.class_dim, 1)
    labels = labels.reshape(_without(tuple(logits.shape), 1)).long()
    known = _known(labels, logits.shape[1], positions=target.kind == "classes of positions")
    safe = torch.where(known, labels, 0)
    chosen = _log_softmax(logits, 1).gather(1, safe.unsqueeze(1)).squeeze(1)
    values = _with_floor(chosen, logits.argmax(1) == safe, logits.isfinite().all(1))
    if target.kind == "classes":
        return values
    counted = known.reshape(len(known), -1)
    number = counted.sum(1)
    return {
        metric: ((value.reshape(counted.shape) * counted).sum(1) / number)[number > 0]
        for metric, value in values.items()
    }


def _known(labels: Tensor, classes: int, *, positions: bool) -> Tensor:
    known = (labels >= 0) & (labels < classes)
    odd = labels[~known]
    if positions:
        odd = odd[~torch.isin(odd, torch.tensor(IGNORED, device=odd.device))]
    if len(odd):
        raise MissingFunction(
            f"the data have a class {int(odd[0])}, the model gives {classes} of them (0 is the first): "
            "either it is not the model of these data, or these labels are not classes and need a score of their own",
            "score",
        )
    return known


def _several(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    finite = logits.isfinite()
    sign = 2 * labels.double() - 1
    log = F.logsigmoid(sign * torch.where(finite, logits, 0).double())
    values = _with_floor(log, (logits > 0) == (labels > 0), finite)
    return {metric: value.reshape(len(value), -1).mean(1) for metric, value in values.items()}


def _with_floor(log: Tensor, right: Tensor, finite: Tensor) -> dict[str, Tensor]:
    floor = torch.tensor(_LEAST, dtype=torch.float64).log().to(log)
    return {
        ACCURACY: (right & finite).double(),
        LIKELIHOOD: torch.where(finite, log, floor).clamp_min(floor),
    }


def _as_logits(target: Target, shares: Tensor) -> Tensor:
    """Numbers of which a softmax, or a sigmoid for single ones, gives these probabilities."""
    shares = shares.double().clamp(_LEAST, 1 - _LEAST)
    single = target.class_dim is None or shares.ndim < 2 or shares.shape[target.class_dim] == 1
    return shares.logit() if single else shares.log()


def _log_softmax(logits: Tensor, dim: int) -> Tensor:
    return F.log_softmax(logits.double(), dim)


def _is_share(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _is_distribution(labels: Tensor) -> bool:
    return bool((labels >= 0).all()) and torch.allclose(labels.sum(1), torch.ones(len(labels)).to(labels), atol=1e-4)


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1 :])


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(size for size in shape[1:] if size > 1))

"""Batches that are no sample of the data: sorted by class, or sharded."""

from collections.abc import Iterable
from functools import partial

import torch

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

_MOST_CLASSES = 30


def find(case: Case) -> Iterable[Finding]:
    sample = case.sample
    if sample is None or sample.joined is None or (labels := sample.labels) is None:
        return
    classes = [int(k) for k in labels.unique() if int((labels == k).sum()) >= 8]
    names = [n for n in case.joint if n in case.stored and not case.layers[n].damaged]
    if not 2 <= len(classes) <= _MOST_CLASSES or not names:
        return
    by_class = [case.measure(sample.rows((labels == k).nonzero().squeeze(1))) for k in classes]
    names = [name for name in names if all(name in found for found in by_class)]
    weights = _weights(case, by_class, names)
    mixed = Statistics({name: _mixed([found[name] for found in by_class], weights) for name in names})
    before, after = distance(case.stored, case.joint, names), distance(case.stored, mixed, names)
    share = 1 - after / before if before > 0 else 0.0
    largest = int(torch.tensor(weights).argmax())
    if share < 0.3:
        return
    most = weights[largest] * len(classes)
    what = (
        f"class {classes[largest]} weighs {weights[largest]:.0%} in them"
        if most > 2
        else "the variance between classes is not in them"
    )
    yield Finding(
        cause="sorted batches",
        sentence=f"the statistics are those of batches of one class each, not of the data: {what}; {share:.0%} of the "
        "shift is explained by it (sorted or sharded loaders, passes over sorted data in train())",
        share=share,
        advice="shuffle what trains or recalibrates",
    )


def _weights(case: Case, by_class: list[Statistics], names: list[str]) -> list[float]:
    """Non-negative least squares: which mixture of class-pure batches was stored."""
    from scipy.optimize import nnls  # a quarter of a second, which only this cause needs

    columns, target = [], []
    for name in names:
        std = case.joint[name].std.double().clamp_min(1e-2)
        scaled = partial(_scaled, std=std)
        columns.append(torch.stack([scaled(found[name]) for found in by_class], 1))
        target.append(scaled(case.stored[name]))
    matrix, wanted = torch.cat(columns), torch.cat(target).clamp(-20, 20)
    # Weights sum to 1: one more equation, as heavy as all the others.
    matrix = torch.cat([matrix, torch.full((1, len(by_class)), float(len(matrix)) ** 0.5)])
    wanted = torch.cat([wanted, torch.tensor([float(len(wanted)) ** 0.5])])
    found, _ = nnls(matrix.numpy(), wanted.numpy())
    total = float(found.sum()) or 1.0
    return [float(value) / total for value in found]


def _scaled(moments: Moments, std: torch.Tensor) -> torch.Tensor:
    return torch.cat([moments.mean.double().cpu() / std, moments.var.double().cpu() / std.square()])


def _mixed(parts: list[Moments], weights: list[float]) -> Moments:
    """What torch's average of such batches holds: the mean of their variances, without what lies between them."""
    mean = sum((w * part.mean.double() for w, part in zip(weights, parts, strict=True)), torch.zeros(()).double())
    var = sum((w * part.var.double() for w, part in zip(weights, parts, strict=True)), torch.zeros(()).double())
    assert isinstance(mean, torch.Tensor) and isinstance(var, torch.Tensor)
    return Moments(mean, var)

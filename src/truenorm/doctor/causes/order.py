"""Batches that are no sample of the data: sorted by class, or sharded."""

from collections.abc import Iterable
from functools import partial

import torch

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import ChangeTraining, RepairStatistics
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

_MOST_CLASSES = 30

_FITS = 0.6
"""Share of the shift that a mixture of classes must explain: with a weight for each class much can be fitted."""


def find(case: Case) -> Iterable[Finding]:
    sample = case.sample
    if sample is None or sample.joined is None or (labels := sample.classes) is None:
        return
    classes = [int(k) for k in labels.unique() if int((labels == k).sum()) >= 8]
    names = case.compared
    if not 2 <= len(classes) <= _MOST_CLASSES or not names:
        return
    by_class = [case.measure(sample.rows((labels == k).nonzero().squeeze(1))) for k in classes]
    names = [name for name in names if all(name in statistics for statistics in by_class)]
    weights = _weights(case, by_class, names)
    mixed = Statistics({name: _mixed([statistics[name] for statistics in by_class], weights) for name in names})
    before, after = distance(case.stored, case.joint, names), distance(case.stored, mixed, names)
    explained = 1 - after / before if before > 0 else 0.0
    if explained < _FITS:
        return
    largest = int(torch.tensor(weights).argmax())
    uneven = weights[largest] * len(classes) > 2
    yield Finding(
        cause="sorted batches",
        evidence={"heaviest": classes[largest] if uneven else None, "weight": weights[largest]},
        explained=explained,
        remedy=RepairStatistics(next_time=ChangeTraining(what="shuffle")),
    )


def _weights(case: Case, by_class: list[Statistics], names: list[str]) -> list[float]:
    """Non-negative least squares: which mixture of class-pure batches was stored."""
    from scipy.optimize import nnls  # a quarter of a second, which only this cause needs

    columns, target = [], []
    for name in names:
        std = case.joint[name].std.double().clamp_min(1e-2)
        scaled = partial(_scaled, std=std)
        columns.append(torch.stack([scaled(statistics[name]) for statistics in by_class], 1))
        target.append(scaled(case.stored[name]))
    matrix, wanted = torch.cat(columns), torch.cat(target).clamp(-20, 20)
    # Weights sum to 1: one more equation, as heavy as all the others.
    matrix = torch.cat([matrix, torch.full((1, len(by_class)), float(len(matrix)) ** 0.5)])
    wanted = torch.cat([wanted, torch.tensor([float(len(wanted)) ** 0.5])])
    solution, _ = nnls(matrix.numpy(), wanted.numpy())
    total = float(solution.sum()) or 1.0
    return [float(value) / total for value in solution]


def _scaled(moments: Moments, std: torch.Tensor) -> torch.Tensor:
    return torch.cat([moments.mean.double().cpu() / std, moments.var.double().cpu() / std.square()])


def _mixed(parts: list[Moments], weights: list[float]) -> Moments:
    """What torch's average of such batches holds: the mean of their variances, without what lies between them."""
    mean = sum((w * part.mean.double() for w, part in zip(weights, parts, strict=True)), torch.zeros(()).double())
    var = sum((w * part.var.double() for w, part in zip(weights, parts, strict=True)), torch.zeros(()).double())
    assert isinstance(mean, torch.Tensor) and isinstance(var, torch.Tensor)
    return Moments(mean, var)

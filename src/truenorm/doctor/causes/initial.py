"""The initial mean 0 and variance 1 are still in the statistics: too few steps, or a momentum too small."""

import math
from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import CONTRADICTED
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics


def find(case: Case) -> Iterable[Finding]:
    names = [n for n in case.joint if n in case.stored and not case.layers[n].untouched and not case.layers[n].damaged]
    if not names:
        return
    before = distance(case.stored, case.joint, names)
    if before <= 0:
        return
    explained, left = max((_explained(case, names, weight, before), weight) for weight in _WEIGHTS)
    expected = _expected(case, names)
    # What momentum and count say is believed where it explains nearly as much as the best that could be fitted.
    counted = 0.0 if expected is None else _explained(case, names, expected, before)
    agrees = expected is None or counted > 0.7 * explained
    if expected is not None and agrees:
        explained, left = counted, expected
    if left < 0.03 or explained < 0.2:
        return
    layer = case.layers[names[0]]
    counts = layer.momentum is not None and bool(layer.momentum) and bool(layer.batches)
    yield Finding(
        cause="initial values",
        evidence={
            "left": left,
            "agrees": expected is not None and agrees,
            "momentum": layer.momentum if counts else None,
            "counted_batches": layer.batches if counts else None,
        },
        explained=explained,
        rank=None if agrees else CONTRADICTED,
    )


def _expected(case: Case, names: list[str]) -> float | None:
    """Mean over layers of the weight that momentum and count leave to the initial values; None if none counts."""
    known = [left for name in names if (left := _left(case, name)) is not None]
    return sum(known) / len(known) if known else None


def _left(case: Case, name: str) -> float | None:
    """Weight of the initial values, by the count: (1 − m)^t."""
    layer = case.layers[name]
    if layer.batches is None or not layer.batches or layer.pooled or layer.momentum is None:
        return None
    return math.exp(layer.batches * math.log1p(-min(layer.momentum, 1 - 1e-12)))


_WEIGHTS = tuple(number / 25 for number in range(1, 25))


def _explained(case: Case, names: list[str], weight: float, before: float) -> float:
    """How much of the shift is explained if this weight of the initial values is left."""
    mixed = Statistics({name: _mixed(case.joint[name], weight) for name in names})
    return 1 - distance(case.stored, mixed, names) / before


def _mixed(truth: Moments, weight: float) -> Moments:
    return Moments(truth.mean * (1 - weight), truth.var * (1 - weight) + torch.full_like(truth.var, weight))

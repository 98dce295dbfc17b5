"""The initial mean 0 and variance 1 are still in the statistics: too few steps, or a momentum too small."""

import math
from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case, distance, slope_of_means
from truenorm.doctor.finding import Finding
from truenorm.doctor.layers import Layer
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

LEAST = 0.03
"""Weight of the initial values from which on it is named."""

_EXPLAINS = 0.2
"""Share of the shift from which on a weight that momentum and count give is named."""

_FITS = 0.8
"""Share from which on a weight that was only fitted is named."""

_AGREE = 0.15
"""How far the weights that means and variances fit may be apart."""

_NEARLY = 0.7
"""What momentum and count say is believed where it explains this share of what the best fit explains."""

_ERROR = 0.05
"""How far from the weight that fits the one may be that momentum and count say, whatever it explains."""

_WORSE = 5.0
"""A weight that is farther from the one that fits is denied if it leaves so many times as much unexplained."""


def find(case: Case) -> Iterable[Finding]:
    """(1 − m)^t is arithmetic: what is fitted against it is no finding, unless the momentum is a guess."""
    names = case.moved
    if not names:
        return
    before = distance(case.stored, case.joint, names)
    if before <= 0:
        return
    best, fitted = max((_explained(case, names, weight, before), weight) for weight in _WEIGHTS)
    layers = [case.layers[name] for name in names]
    counted = [left for layer in layers if (left := initial_weight(layer)) is not None]
    if counted:
        expected = sum(counted) / len(counted)
        explained = _explained(case, names, expected, before)
        contradicted = abs(expected - fitted) > _ERROR and best > _FITS and 1 - explained > _WORSE * (1 - best)
        if explained > max(_EXPLAINS, _NEARLY * best) and not contradicted:
            if expected >= LEAST:
                yield _finding(layers[0], expected, explained, measured=True)
            return
    # In a single layer other means and variances may look like a mixture by chance.
    if len(names) < 2 or fitted < LEAST or best < _FITS or abs(_weight_of_means(case, names) - fitted) > _AGREE:
        return
    batches = {layer.batches for layer in layers if layer.batches}
    if not counted:
        yield _finding(layers[0], fitted, best, measured=False)
    elif not case.momentum_known and len(batches) == 1:
        (number,) = batches
        yield Finding(
            cause="another momentum in training",
            evidence={
                "momentum": layers[0].momentum,
                "fits": 1 - fitted ** (1 / number),
                "left": fitted,
                "expected": sum(counted) / len(counted),
                "batches": number,
            },
            explained=best,
        )


def initial_weight(layer: Layer) -> float | None:
    """Weight of the initial values, (1 − m)^t; None where momentum or count is unknown or not used."""
    if not layer.batches or layer.pooled or layer.momentum is None or layer.frozen:
        return None
    return math.exp(layer.batches * math.log1p(-min(layer.momentum, 1 - 1e-12)))


def _finding(layer: Layer, left: float, explained: float, *, measured: bool) -> Finding:
    return Finding(
        cause="initial values",
        evidence={
            "left": left,
            "momentum": layer.momentum if measured else None,
            "batches": layer.batches if measured else None,
        },
        explained=explained,
    )


_WEIGHTS = tuple(number / 100 for number in range(1, 100))


def _explained(case: Case, names: list[str], weight: float, before: float) -> float:
    """How much of the shift is explained if this weight of the initial values is left."""
    fitted = Statistics({name: mixed(case.joint[name], weight) for name in names})
    return 1 - distance(case.stored, fitted, names) / before


def mixed(truth: Moments, weight: float) -> Moments:
    """With so much left of the initial mean 0 and variance 1."""
    return Moments(truth.mean * (1 - weight), truth.var * (1 - weight) + torch.full_like(truth.var, weight))


def _weight_of_means(case: Case, names: list[str]) -> float:
    """The weight that the means alone have left."""
    return 1 - slope_of_means(case, names)

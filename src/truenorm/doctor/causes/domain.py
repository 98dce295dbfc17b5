"""Data unlike those of training: another domain, other noise or contrast, augmentation."""

from collections.abc import Iterable

import torch

from truenorm.doctor.causes.momentum import window
from truenorm.doctor.causes.response import response_to_input
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import FIRST_LAYER
from truenorm.doctor.remedy import ChangeTraining, RepairStatistics
from truenorm.stats.shift import errors, noise_floor

_AS_DATA = 0.9
"""Share of the error in the first layer's means that another mean of the data must explain."""

_MEANS_OFF = 0.1
"""σ by which they must be off for that to be asked."""

HALF = 0.5
"""From here on more speaks for the data than for the weights."""


def from_the_data(case: Case) -> float | None:
    """How much speaks for the data rather than for weights that moved, 0 to 1; None where neither is off.

    What the data do to the first layer they do to all of its channels alike, and its means move as with another mean
    of the data; weights move each channel in its own way.
    """
    own = case.own()
    if own is None or not own.layers:
        return None
    if (as_data := moved_as_data(case)) is not None and as_data > _AS_DATA:
        return 1.0
    if len(own.layers) < 2:
        return None
    first, *others = (found.shift for found in own.layers)
    name = own.layers[0].layer
    _, log_C = errors(case.stored[name], case.exact[name])
    alike = float(log_C.median().abs() / log_C.std().clamp_min(1e-6)) if len(log_C) > 1 else 0.0
    leads = first / (first + sum(others) / len(others) + 1e-12)
    return min(1.0, leads * min(alike, 2.0))


def moved_as_data(case: Case) -> float | None:
    r"""Which part of the first layer's error in the means another mean of the data explains, 0 to 1.

    What reaches the first layer is linear in the data: with the response $W$ of its means to each feature, $r - e = W
    \delta$ has a solution if the data moved, and has none with fewer features than channels if the weights did. The
    residual is corrected for the fitted numbers. None where that cannot be told: too many features, or hardly an error.
    """
    first = next(iter(case.joint))
    if case.arriving is None or first not in case.compared or not case.layers[first].behaviour.uses_mean:
        return None
    response = response_to_input(case, first)
    if response is None:
        return None
    off_C, _ = errors(case.stored[first], case.arriving[first])
    channels, features = response.matrix.shape
    floor = noise_floor(case.arriving[first]) or 0.0
    if channels < 2 * features or float(off_C.square().mean().sqrt()) < max(_MEANS_OFF, 3 * floor):
        return None
    matrix = response.matrix / case.arriving[first].std.double().clamp_min(1e-6)[:, None]
    left_C = off_C - matrix @ torch.linalg.lstsq(matrix, off_C[:, None]).solution[:, 0]
    return 1 - float(left_C.square().sum()) / (channels - features) / float(off_C.square().mean())


def find(case: Case) -> Iterable[Finding]:
    from_data = from_the_data(case)
    own = case.own()
    if from_data is None or own is None or from_data < HALF:
        return
    first = own.layers[0]
    layer = case.layers[first.layer]
    yield Finding(
        cause="domain",
        evidence={
            "shift": first.shift,
            "from_data": from_data,
            "momentum": layer.momentum if layer.batches else None,
            "window": window(layer.momentum) if layer.momentum else None,
            "batches": layer.batches or None,
        },
        rank=FIRST_LAYER,
        layers=(first.layer,),
        remedy=RepairStatistics(next_time=ChangeTraining(what="train on such data")),
    )

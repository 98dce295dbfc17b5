"""Data unlike those of training: another domain, other noise or contrast, augmentation."""

from collections.abc import Iterable

from truenorm.doctor.causes.momentum import window
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import FIRST_LAYER
from truenorm.doctor.remedy import ChangeTraining, RepairStatistics
from truenorm.stats.shift import errors

HALF = 0.5
"""From here on more speaks for the data than for the weights."""


def from_the_data(case: Case) -> float | None:
    """How much speaks for the data rather than for weights that moved, 0 to 1; None where neither is off.

    What the data do to the first layer they do to all of its channels alike; weights move each in its own way.
    """
    own = case.own()
    if own is None or len(own.layers) < 2:
        return None
    first, *others = (found.shift for found in own.layers)
    name = own.layers[0].layer
    _, log_C = errors(case.stored[name], case.exact[name])
    alike = float(log_C.median().abs() / log_C.std().clamp_min(1e-6)) if len(log_C) > 1 else 0.0
    leads = first / (first + sum(others) / len(others) + 1e-12)
    return min(1.0, leads * min(alike, 2.0))


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

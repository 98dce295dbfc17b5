"""Weights that moved on while the average lagged behind."""

from collections.abc import Iterable

from truenorm.doctor.causes.domain import HALF, from_the_data
from truenorm.doctor.causes.momentum import LARGE, window
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import LATER_LAYERS


def find(case: Case) -> Iterable[Finding]:
    from_data = from_the_data(case)
    momenta = sorted({layer.momentum for layer in case.layers.values() if layer.momentum})
    if from_data is None or from_data >= HALF or (momenta and momenta[0] >= LARGE):
        return  # a window of a batch or two does not lag
    momentum = momenta[0] if momenta else None
    yield Finding(
        cause="lag",
        evidence={
            "momentum": momentum,
            "window": None if momentum is None else window(momentum),
            "from_weights": 1 - from_data,
        },
        rank=LATER_LAYERS,
    )

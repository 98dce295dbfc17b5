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
    if alone(case) is not None:
        return  # all weights move in training, so that many layers lag
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


def alone(case: Case) -> str | None:
    """The layer that alone is off by itself; None where several are, or where there are few layers."""
    own = case.own()
    if own is None or len(own.layers) < _SEVERAL:
        return None
    power = sum(min(layer.shift, _MOST) ** 2 for layer in own.layers)
    worst = own.worst
    return worst.layer if min(worst.shift, _MOST) ** 2 > _ALONE * power > 0 else None


_SEVERAL = 3
"""Layers from which on it is odd that one alone is off."""

_ALONE = 0.9
"""Share of the squared own shifts that one layer must have."""

_MOST = 1e6
"""σ; a variance of 0 is off by more than any number."""

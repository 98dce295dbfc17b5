"""The momentum's own noise: so much weight on the last batches that their sampling shows."""

import math
import statistics
from collections.abc import Iterable

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding, Value
from truenorm.doctor.layers import Layer
from truenorm.doctor.rank import NOISE, OTHER_WEIGHTS, SETTINGS
from truenorm.doctor.remedy import RepairStatistics, SetMomentum
from truenorm.model.layers import unwrap

LARGE = 0.45
"""From here on a momentum is one that was taken for a decay (0.9, 0.99), or Keras's."""

_SPREAD = 6.0
"""How many times that of one layer the batch size that fits another may be: noise fits the same size everywhere."""

USUAL = 0.1
"""torch's default."""


def find(case: Case) -> Iterable[Finding]:
    moved = case.moved
    layers = {
        name: layer
        for name, layer in case.layers.items()
        if name in moved and layer.momentum
        if not _is_held(case, layer)
    }
    if not layers or case.sample is None:
        return
    observed = floor = 0.0
    sizes: list[float] = []
    for name, layer in layers.items():
        assert layer.momentum is not None
        moments = case.joint[name]
        effect = moments.design_effect if moments.design_effect is not None else 1.0
        noise = effect + max(effect, 1.0)  # of one value per channel, in mean and spread
        positions = max(1.0, (moments.count or 1) / len(case.sample))
        here, below = distance(case.stored, case.joint, [name]), noise / max(1, moments.count or 1)
        observed += here / len(layers)
        floor += below / len(layers)
        sizes.append(layer.momentum / (2 - layer.momentum) * noise / positions / max(here - below, 1e-9))
    batch = statistics.median(sizes)
    largest = max(layers.values(), key=lambda layer: layer.momentum or 0.0)
    assert largest.momentum is not None
    if largest.momentum >= LARGE and observed > 2 * floor:
        where = [name for name, layer in layers.items() if (layer.momentum or 0) >= LARGE]
        yield Finding(
            cause="momentum",
            evidence=_evidence(largest.momentum),
            rank=OTHER_WEIGHTS,
            layers=tuple(where),
            remedy=RepairStatistics(next_time=SetMomentum(momentum=round(1 - largest.momentum, 12))),
        )
    elif (
        case.sample.joined is not None
        and not case.repeated
        and 1 <= batch < 0.5 * case.sample.batch_size
        and observed > 4 * floor
        and max(sizes) < _SPREAD * min(sizes)
    ):
        yield Finding(
            cause="sampling noise",
            evidence={
                "momentum": largest.momentum,
                "window": window(largest.momentum),
                "sigma": math.sqrt(observed),
                "samples": max(2, round(batch)),
            },
            rank=NOISE,
        )


def find_setting(case: Case) -> Iterable[Finding]:
    """Without data: its effect cannot be looked at."""
    large = {
        name: layer.momentum
        for name, layer in case.layers.items()
        if layer.momentum and layer.momentum >= LARGE and not _is_held(case, layer)
    }
    if large and not case.estimates:
        yield Finding(
            cause="momentum",
            evidence=_evidence(next(iter(large.values()))),
            rank=SETTINGS,
            level="defect",
            layers=tuple(large),
            remedy=SetMomentum(momentum=USUAL),
        )


def _is_held(case: Case, layer: Layer) -> bool:
    """Whether the layer does not train: frozen, or in eval() while the model trains. It does not use its momentum."""
    return layer.frozen or (unwrap(case.model).training and not layer.training)


def window(momentum: float) -> float:
    """Batches that leave as much noise if each weighs the same.

    Example:
        >>> window(0.5)
        3.0
    """
    return (2 - momentum) / momentum


def _evidence(momentum: float) -> dict[str, Value]:
    return {"momentum": momentum, "window": window(momentum), "keras": 1 - momentum}

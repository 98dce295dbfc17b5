"""Weights γ that training did not use: the first layer is right, and all behind it are off by them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from truenorm.doctor.advice import advised
from truenorm.doctor.examine import Case, chance, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import SetWeight, Weight
from truenorm.errors import NotMeasurable
from truenorm.model.layers import batch_norms

_FITS = 0.85
"""Share of the shift that must be gone with the other weights."""

_FIRST = 0.25
"""How far off the first layer may be, as a share of the mean of the others: nothing before it depends on γ."""

_PROMISES = 0.4
"""Share that must be gone on a few samples for weights to be tried on all."""

_WEIGHTS: dict[Weight, Callable[[Tensor], Tensor]] = {
    "1": torch.ones_like,
    "1 + γ": lambda weight: 1 + weight,
    "|γ|": torch.Tensor.abs,
}


def find(case: Case) -> Iterable[Finding]:
    names = case.compared
    if len(names) < 2 or case.sample is None:
        return
    first = distance(case.stored, case.joint, names[:1])
    before = distance(case.stored, case.joint, names)
    if before <= 0 or first > _FIRST * before:
        return
    best: tuple[float, Weight, nn.Module] | None = None
    for weight in _WEIGHTS:
        network = _with(case, weight)
        if network is None:
            continue
        try:
            measured = case.measure_on(network, case.few)
            explained = 1 - (distance(case.stored, measured, names) - chance(measured, names)) / before
        except NotMeasurable:
            continue
        if best is None or explained > best[0]:
            best = (explained, weight, network)
    if best is None or best[0] < _PROMISES:
        return
    _, weight, network = best
    explained = 1 - distance(case.stored, case.measure_on(network, case.sample), names) / before
    if explained < _FITS:
        return
    advice = advised(case, case.judged_on(network), SetWeight(weight=weight))
    if advice is not None:
        yield Finding(
            cause="weights of batch norm",
            evidence={"weight": weight, **advice.evidence},
            explained=explained,
            level=advice.level,
            remedy=advice.remedy,
        )


def _with(case: Case, weight: Weight) -> nn.Module | None:
    """A copy of the network with other weights; None where they would be the same, or it cannot be copied."""
    network = case.copy()
    if network is None:
        return None
    changed = False
    for layer in batch_norms(network, tracking=False).values():
        gamma = getattr(layer, "weight", None)
        if isinstance(gamma, Tensor):
            new = _WEIGHTS[weight](gamma.detach())
            changed = changed or not torch.equal(new, gamma.detach())
            gamma.data.copy_(new)
    return network if changed else None

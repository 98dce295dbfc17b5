"""The initial mean 0 and variance 1 are still in the statistics: never updated, too few steps, momentum too small."""

import math
from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding, some, times
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics


def find(case: Case) -> Iterable[Finding]:
    untouched = [name for name, layer in case.layers.items() if layer.untouched and name in case.joint]
    never = [name for name in untouched if not case.layers[name].batches and case.layers[name].momentum != 0]
    still = [name for name in untouched if case.layers[name].momentum == 0]
    if still:
        yield Finding(
            cause="momentum 0",
            sentence=f"momentum is 0 in {some(still)}: running statistics never move from 0 and 1 (torch's momentum is "
            "the weight of the new batch; Keras's is 1 − it)",
            share=1.0,
            level="defect",
            layers=tuple(still),
        )
    if never:
        yield Finding(
            cause="never updated",
            sentence=f"{some(never)} {'holds' if len(never) == 1 else 'hold'} the initial mean 0 and variance 1, and "
            "no batch was counted: it was never trained, or the checkpoint that was loaded has no buffers",
            share=1.0,
            level="defect",
            layers=tuple(never),
        )
    touched = [n for n in case.joint if n not in untouched and n in case.stored and not case.layers[n].damaged]
    if not touched:
        return
    before = distance(case.stored, case.joint, touched)
    if before <= 0:
        return
    share, weight = max((_share(case, touched, weight, before), weight) for weight in _WEIGHTS)
    known = [left for name in touched if (left := _left(case, name)) is not None]
    expected = sum(known) / len(known) if known else None
    # What momentum and count say is believed where it explains nearly as much as the best that could be fitted.
    counted_share = 0.0 if expected is None else _share(case, touched, expected, before)
    agrees = expected is None or counted_share > 0.7 * share
    if expected is not None and agrees:
        share, weight = counted_share, expected
    if weight < 0.03 or share < 0.2:
        return
    layer = case.layers[touched[0]]
    if expected is not None and agrees:
        counted = f"momentum {layer.momentum:g}, {times(layer.batches or 0, 'batch')}"
        why = f"{counted}: {expected:.0%} of the initial 0 and 1 is still stored"
    else:
        why = f"about {weight:.0%} of what is stored is the initial 0 and 1"
        if layer.momentum and layer.batches:
            why += f" (momentum {layer.momentum:g} and {times(layer.batches, 'batch')} do not explain it)"
    yield Finding(
        cause="initial values",
        sentence=f"{why}; {share:.0%} of the shift is explained by it",
        share=share if agrees else _CONTRADICTED * share,
    )


_CONTRADICTED = 0.4
"""What an explanation is worth that momentum and count speak against."""


def _left(case: Case, name: str) -> float | None:
    """Weight of the initial values, by the count: (1 − m)^t."""
    layer = case.layers[name]
    if layer.batches is None or not layer.batches or layer.pooled or layer.momentum is None:
        return None
    return math.exp(layer.batches * math.log1p(-min(layer.momentum, 1 - 1e-12)))


_WEIGHTS = tuple(number / 25 for number in range(1, 25))


def _share(case: Case, names: list[str], weight: float, before: float) -> float:
    """How much of the shift is explained if this weight of the initial values is left."""
    mixed = Statistics({name: _mixed(case.joint[name], weight) for name in names})
    return 1 - distance(case.stored, mixed, names) / before


def _mixed(truth: Moments, weight: float) -> Moments:
    return Moments(truth.mean * (1 - weight), truth.var * (1 - weight) + torch.full_like(truth.var, weight))

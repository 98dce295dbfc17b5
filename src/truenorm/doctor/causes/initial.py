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
    known = [left for name in touched if (left := _left(case, name)) is not None]
    weight = _fitted(case, touched)
    mixed = Statistics({name: _mixed(case.joint[name], weight) for name in touched})
    before, after = distance(case.stored, case.joint, touched), distance(case.stored, mixed, touched)
    share = max(0.0, 1 - after / before) if before > 0 else 0.0
    expected = sum(known) / len(known) if known else None
    if weight < 0.03 or share < 0.2:
        return
    layer = case.layers[touched[0]]
    agrees = expected is None or abs(expected - weight) < max(0.1, 0.4 * weight)
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


def _fitted(case: Case, names: list[str]) -> float:
    """Least squares for w in r = w·(0, 1) + (1 − w)·population, means and variances in units of σ."""
    over, under = 0.0, 0.0
    for name in names:
        truth, stored = case.joint[name], case.stored[name]
        live = truth.var.cpu() > 1e-3
        std = truth.std.cpu()[live].double()
        for have, want, start, unit in (
            (stored.mean, truth.mean, 0.0, std),
            (stored.var, truth.var, 1.0, std.square()),
        ):
            there = want.cpu()[live].double()
            direction = ((start - there) / unit).clamp(-5, 5)
            moved = ((have.cpu()[live].double() - there) / unit).clamp(-5, 5)
            over += float((direction * moved).sum())
            under += float(direction.square().sum())
    return min(1.0, max(0.0, over / under)) if under > 0 else 0.0


def _mixed(truth: Moments, weight: float) -> Moments:
    return Moments(truth.mean * (1 - weight), truth.var * (1 - weight) + torch.full_like(truth.var, weight))

"""One layer for several populations: it is called several times per forward, and its calls see different data."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import SHARED
from truenorm.doctor.remedy import ChangeCode
from truenorm.model.calls import Call, calls_of
from truenorm.stats.moments import Moments
from truenorm.stats.shift import errors

_APART = 0.2
"""σ from which on two calls see different populations."""

_BEYOND_CHANCE = 3.0
"""How many times further apart calls must be than the two halves of one call's batches."""


def find(case: Case) -> Iterable[Finding]:
    """Calls whose populations differ beyond chance, where what is stored is nearer to their mixture than to any call's.

    Several calls on one population (parts of a batch, images of a list, two views) are none.
    """
    if not case.repeated or case.sample is None:
        return
    calls = calls_of(case.model, case.sample.batches, case.repeated, forward=case.forward)
    mixed = {name: apart for name, found in calls.items() if (apart := _mixed(case.stored[name], found)) is not None}
    if mixed:
        yield Finding(
            cause="called several times",
            evidence={"calls": max(len(calls[name]) for name in mixed), "apart": max(mixed.values())},
            rank=SHARED,
            layers=tuple(mixed),
            remedy=ChangeCode(what="a norm for each call"),
        )


def _mixed(stored: Moments, calls: Sequence[Call]) -> float | None:
    """How far the calls' populations are apart, in σ; None if they are one, or if they are not what was stored."""
    if len(calls) < 2:
        return None
    apart = max(_between(a.moments, b.moments) for a, b in combinations(calls, 2))
    chance = max(_between(*call.halves) for call in calls)
    if apart < max(_APART, _BEYOND_CHANCE * chance):
        return None
    # torch averages the calls' means and their variances.
    mean = torch.stack([call.moments.mean for call in calls]).mean(0)
    var = torch.stack([call.moments.var for call in calls]).mean(0)
    nearest = min(_between(stored, call.moments) for call in calls)
    return apart if _between(stored, Moments(mean, var)) < nearest else None


def _between(a: Moments, b: Moments) -> float:
    """The root mean square over channels of both errors."""
    d_C, log_C = errors(a, b)
    return float((d_C.clamp(-10, 10).square() + 2 * log_C.clamp(-3, 3).square()).mean().sqrt())

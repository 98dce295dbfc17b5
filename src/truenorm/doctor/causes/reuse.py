"""One layer for several populations: it is called several times per forward, and its calls see different data."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import torch

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import SHARED
from truenorm.doctor.remedy import ChangeCode
from truenorm.model.calls import Call, calls_of
from truenorm.stats.moments import Moments
from truenorm.stats.shift import errors
from truenorm.stats.statistics import Statistics

_APART = 0.2
"""σ from which on two calls see different populations."""

_EXPLAINS = 0.5
"""Share of the shift from which on it is measured that a mixture explains it: where the calls' means hardly differ, it
is near the pooled statistics."""

_BEYOND_CHANCE = 3.0
"""How many times further apart calls must be than the two halves of one call's batches."""


def find(case: Case) -> Iterable[Finding]:
    """Calls whose populations differ beyond chance, where what is stored is nearer to their mixture than to any call's.

    Several calls on one population (parts of a batch, images of a list, two views) are none.
    """
    if not case.repeated or case.sample is None:
        return
    calls = calls_of(case.model, case.sample.batches, case.repeated, forward=case.forward, mask=case.mask)
    compared = {name: found for name, found in calls.items() if name in case.compared and len(found) > 1}
    apart = {name: value for name, found in compared.items() if (value := _apart(found)) is not None}
    mixtures = {name: _mixture(compared[name]) for name in apart}
    mixed = [
        name
        for name, mixture in mixtures.items()
        if _between(case.stored[name], mixture)
        < min(_between(case.stored[name], call.moments) for call in compared[name])
    ]
    if not mixed:
        return
    as_stored = Statistics({**case.joint, **{name: mixtures[name] for name in mixed}})
    before, after = (distance(case.stored, each, case.compared) for each in (case.joint, as_stored))
    explained = 1 - after / before if before > 0 else 0.0
    yield Finding(
        cause="called several times",
        evidence={
            "calls": max(len(compared[name]) for name in mixed),
            "apart": max(apart[name] for name in mixed),
        },
        explained=explained if explained > _EXPLAINS else None,
        rank=None if explained > _EXPLAINS else SHARED,
        layers=tuple(mixed),
        remedy=ChangeCode(what="a norm for each call"),
    )


def _apart(calls: Sequence[Call]) -> float | None:
    """How far the calls' populations are apart, in σ; None if that may be chance."""
    apart = max(_between(a.moments, b.moments) for a, b in combinations(calls, 2))
    chance = max(_between(*call.halves) for call in calls)
    return None if apart < max(_APART, _BEYOND_CHANCE * chance) else apart


def _mixture(calls: Sequence[Call]) -> Moments:
    """What torch stores of several calls: the averages of their means and of their variances."""
    mean = torch.stack([call.moments.mean for call in calls]).mean(0)
    return Moments(mean, torch.stack([call.moments.var for call in calls]).mean(0))


def _between(a: Moments, b: Moments) -> float:
    """The root mean square over channels of both errors."""
    d_C, log_C = errors(a, b)
    return float((d_C.clamp(-10, 10).square() + 2 * log_C.clamp(-3, 3).square()).mean().sqrt())

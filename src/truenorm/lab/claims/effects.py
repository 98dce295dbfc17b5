"""How the effects of comparisons are computed from what was measured, seed by seed."""

import math
from collections.abc import Mapping
from typing import Any

from truenorm.lab.claims.claim import Effect
from truenorm.lab.claims.evidence import Evidence


def value(metric: str, arm: str, **where: Any) -> Effect:
    """The metric itself, of an arm at a place."""
    return lambda evidence: evidence.by_seed(metric, arm, **where)


def difference(metric: str, a: str, b: str, *, at: Mapping[str, Any] | None = None, **where: Any) -> Effect:
    """a − b of a metric; see `Evidence.paired` for the arguments."""
    return lambda evidence: evidence.difference(metric, a, b, at=at, **where)


def log_ratio(metric: str, a: str, b: str, **where: Any) -> Effect:
    """ln(a / b) of a metric; see `Evidence.paired` for the arguments."""
    return lambda evidence: evidence.paired(lambda of_a, of_b: math.log(of_a / of_b), metric, a, b, **where)


def interaction(metric: str, without: tuple[str, str], given: tuple[str, str], **where: Any) -> Effect:
    """(a − b) − (c − d) of a metric: how much less c gains over d than a over b, at one place.

    Args:
        metric: as its rows name it.
        without: a and b, arms.
        given: c and d, likewise.
        where: the place.
    """

    def effect(evidence: Evidence) -> Mapping[int, float]:
        first, second = (evidence.difference(metric, *arms, **where) for arms in (without, given))
        return {seed: first[seed] - second[seed] for seed in first if seed in second}

    return effect

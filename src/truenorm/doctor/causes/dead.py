"""Channels that hardly vary: ε decides what they give."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import Nothing
from truenorm.stats.shift import DEAD_BELOW


def find(case: Case) -> Iterable[Finding]:
    if not case.estimates:
        return
    dead = {name: int((moments.var <= DEAD_BELOW).sum()) for name, moments in case.exact.items()}
    total = sum(moments.num_channels for moments in case.exact.values())
    channels = sum(dead.values())
    if channels > 0.1 * total:
        yield Finding(
            cause="dead channels",
            evidence={"channels": channels, "of_channels": total, "below": DEAD_BELOW},
            level="note",
            layers=tuple(name for name, count in dead.items() if count),
            remedy=Nothing(),
        )

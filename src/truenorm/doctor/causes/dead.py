"""Channels that hardly vary: ε decides what they give."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some
from truenorm.stats.shift import DEAD_BELOW


def find(case: Case) -> Iterable[Finding]:
    if case.arriving is None:
        return
    dead = {name: int((moments.var <= DEAD_BELOW).sum()) for name, moments in case.arriving.items()}
    total = sum(moments.num_channels for moments in case.arriving.values())
    found = {name: count for name, count in dead.items() if count}
    if sum(found.values()) > 0.1 * total:
        yield Finding(
            cause="dead channels",
            sentence=f"{sum(found.values())} of {total} channels hardly vary on these data (variance below "
            f"{DEAD_BELOW:g}), in {some(found)}: they are left out of the comparison, and tell nothing to the network",
            share=0.02,
            level="note",
            layers=tuple(found),
            remedy="none",
        )

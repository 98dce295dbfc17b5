"""One layer that is called several times per forward: it sees several populations and stores one."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import SHARED
from truenorm.doctor.remedy import ChangeCode


def find(case: Case) -> Iterable[Finding]:
    if not case.repeated:
        return
    off = case.shift()
    shift = None if off is None else max(off[name].shift for name in case.repeated)
    yield Finding(
        cause="called several times",
        evidence={"shift": shift},
        rank=SHARED,
        layers=case.repeated,
        remedy=ChangeCode(what="a norm for each call"),
    )

"""One layer that is called several times per forward: it sees several populations and stores one."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some


def find(case: Case) -> Iterable[Finding]:
    if not case.repeated:
        return
    off = case.shift()
    shift = max(off[name].shift for name in case.repeated) if off is not None else float("nan")
    yield Finding(
        cause="called several times",
        sentence=f"{some(case.repeated)} {'is' if len(case.repeated) == 1 else 'are'} called more than once per "
        "forward: in training each call normalises by its own batch, in eval() all by one pair of statistics "
        f"({shift:.2g} σ off what arrives)",
        share=0.8,
        layers=case.repeated,
        remedy="code",
        advice="give each call a batch norm of its own (the other layers can stay shared)",
    )

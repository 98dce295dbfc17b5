"""One layer that is called several times per forward: it sees several populations and stores one."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding


def find(case: Case) -> Iterable[Finding]:
    if not case.repeated:
        return
    off = case.shift()
    shift = off[case.repeated].shift if off is not None else float("nan")
    yield Finding(
        cause="called several times",
        sentence=f"layer {case.repeated} is called more than once per forward: in training each call normalises by its "
        f"own batch, in eval() all by one pair of statistics ({shift:.2g} σ off what arrives)",
        share=0.8,
        layers=(case.repeated,),
        remedy="code",
        advice="give each call a batch norm of its own (the other layers can stay shared)",
    )

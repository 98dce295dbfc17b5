"""Layers that still hold the initial mean 0 and variance 1: never updated, or with a momentum of 0."""

from collections.abc import Iterable

from truenorm.doctor.causes.momentum import USUAL
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import BUFFERS, STUCK
from truenorm.doctor.remedy import SetMomentum


def find(case: Case) -> Iterable[Finding]:
    """With data: only layers that they reach."""
    untouched = [name for name, layer in case.layers.items() if layer.untouched and name in case.joint]
    still = tuple(name for name in untouched if case.layers[name].momentum == 0)
    never = tuple(name for name in untouched if not case.layers[name].batches and name not in still)
    if still:
        yield Finding(cause="momentum 0", rank=BUFFERS, level="defect", layers=still)
    if never:
        yield Finding(cause="never updated", rank=BUFFERS, level="defect", layers=never)


def find_setting(case: Case) -> Iterable[Finding]:
    """Without data: a momentum of 0 alone, for a new network holds 0 and 1, too."""
    still = tuple(name for name, layer in case.layers.items() if layer.momentum == 0 and layer.untouched)
    if still and not case.estimates:
        yield Finding(cause="momentum 0", rank=STUCK, level="defect", layers=still, remedy=SetMomentum(momentum=USUAL))

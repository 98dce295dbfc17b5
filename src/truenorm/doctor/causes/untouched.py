"""Layers that still hold the initial mean 0 and variance 1: never updated, or with a momentum of 0."""

from collections.abc import Iterable

from truenorm.doctor.causes.momentum import USUAL
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import BUFFERS, STUCK
from truenorm.doctor.remedy import ChangeTraining, Nothing, RepairStatistics, SetMomentum
from truenorm.doctor.score import AS_IS

_ENOUGH = 30
"""Scored samples from which on "no other statistics score better" is told."""


def find(case: Case) -> Iterable[Finding]:
    """With data: only layers that they reach. Where no other statistics score better, they are 0 and 1 on purpose."""
    untouched = [name for name, layer in case.layers.items() if layer.untouched and name in case.joint]
    still = tuple(name for name in untouched if case.layers[name].momentum == 0)
    never = tuple(name for name in untouched if not case.layers[name].batches and name not in still)
    scored = AS_IS in case.scores and len(case.scores[AS_IS]) >= _ENOUGH
    on_purpose = scored and case.best is None and case.best_unfrozen is None
    if on_purpose and (still or never):
        yield Finding(cause="folded statistics", level="note", layers=(*still, *never), remedy=Nothing())
        return
    if still:
        yield Finding(cause="momentum 0", rank=BUFFERS, level="defect", layers=still)
    if never:
        # Where other layers counted batches the buffers were saved, and these were not reached.
        saved = any(layer.batches for layer in case.layers.values())
        remedy = RepairStatistics(next_time=None if saved else ChangeTraining(what="save buffers"))
        yield Finding(cause="never updated", rank=BUFFERS, level="defect", layers=never, remedy=remedy)


def find_setting(case: Case) -> Iterable[Finding]:
    """Without data: a momentum of 0 alone, for a new network holds 0 and 1, too."""
    still = tuple(name for name, layer in case.layers.items() if layer.momentum == 0 and layer.untouched)
    if still and not case.estimates:
        yield Finding(
            cause="momentum 0",
            rank=STUCK,
            level="defect",
            layers=still,
            remedy=SetMomentum(momentum=USUAL),
        )

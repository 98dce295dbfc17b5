"""Layers that take their batch in eval(): by `track_running_stats=False`, or written into their forward."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import MODE, SETTINGS
from truenorm.doctor.remedy import ChangeCode, TrackStatistics
from truenorm.model.layers import unwrap


def find(case: Case) -> Iterable[Finding]:
    off = [name for name, layer in case.layers.items() if layer.switched_off]
    by_batch = [name for name, layer in case.layers.items() if layer.behaviour.by_batch]
    without = [name for name, layer in case.layers.items() if layer.keeps_none and name not in by_batch]
    for stored, names in ((True, tuple(by_batch)), (False, case.by_batch)):
        if names:
            kinds = dict.fromkeys(type(unwrap(case.model).get_submodule(name)).__name__ for name in names)
            yield Finding(
                cause="by the batch",
                evidence={"classes": tuple(kinds), "stored": stored, "alone": not (stored and _partly(case, names))},
                rank=MODE,
                level="defect",
                layers=names,
                remedy=ChangeCode(what="stored statistics in eval" if stored else "a norm that stores"),
            )
    if case.entangled and not (by_batch or case.by_batch or without):
        yield Finding(
            cause="by the batch",
            evidence={"classes": (), "stored": False, "alone": False},
            level="note",  # observers of simulated quantisation do it, too, and do no harm
            remedy=ChangeCode(what="a sample alone in eval"),
        )
    if off:
        yield Finding(
            cause="track_running_stats",
            evidence={"stored": True},
            rank=MODE,
            level="defect",
            layers=tuple(off),
            remedy=TrackStatistics(rebuild=False),
        )
    if without:
        yield Finding(
            cause="track_running_stats",
            evidence={"stored": False},
            rank=SETTINGS,
            level="defect",
            layers=tuple(without),
            remedy=TrackStatistics(rebuild=True),
        )


def _partly(case: Case, names: tuple[str, ...]) -> bool:
    """Whether the stored statistics have a part in the output beside the batch."""
    behaviours = [case.layers[name].behaviour for name in names]
    return any(behaviour.uses_mean or behaviour.uses_spread for behaviour in behaviours)

"""`track_running_stats=False`: taken for frozen, it is the opposite."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import MODE, SETTINGS
from truenorm.doctor.remedy import TrackStatistics


def find(case: Case) -> Iterable[Finding]:
    off = [name for name, layer in case.layers.items() if layer.switched_off]
    without = [name for name, layer in case.layers.items() if layer.stored is None]
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

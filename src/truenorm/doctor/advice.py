"""Advice about data or code has to do better than the best repair, on the same held-out samples."""

from collections.abc import Mapping
from dataclasses import dataclass

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Level, Value
from truenorm.doctor.remedy import Remedy, RepairStatistics
from truenorm.doctor.score import AS_IS, Scored

_REACHES = 0.5
"""Part of the best repair's gain that a remedy must reach: what undoes the fault reaches nearly all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What comes of a remedy that changes data or code.

    Args:
        remedy: itself if it does better than the best repair; else the repair, which undoes the same fault.
        level: a note where nothing could be scored.
        evidence: the metric, before and with the remedy.
    """

    remedy: Remedy
    level: Level
    evidence: Mapping[str, Value]


def advised(case: Case, after: Scored | None, remedy: Remedy) -> Advice | None:
    """What to say of a remedy with which the network scores `after`.

    None where the score contradicts it: worse than the network as it is, or far behind a repair.

    Args:
        case: the case.
        after: the score of the held-out samples with the remedy; None where nothing is scored.
        remedy: what was changed.
    """
    if after is None or AS_IS not in case.scores:
        return Advice(remedy=remedy, level="note", evidence={"metric": None})
    before, best = case.scores[AS_IS], case.best_score
    assert best is not None
    metric = next(iter(after.values))
    evidence: dict[str, Value] = {
        "metric": metric,
        "before": before.mean(metric),
        "after": after.mean(metric),
        "repaired": None if best is before else best.mean(metric),
    }
    if after.beats(best):
        return Advice(remedy=remedy, level="cause", evidence=evidence)
    lost = any(
        gain.high is not None and gain.high < 0 and -gain.mean > before.relevant(name)
        for name, gain in after.gain(before).items()
    )
    if lost or after.mean(metric) - before.mean(metric) < _REACHES * (best.mean(metric) - before.mean(metric)):
        return None
    return Advice(remedy=RepairStatistics(), level="cause", evidence=evidence)

"""The decision: one value from which verdict, exit code and advice follow."""

from collections.abc import Mapping, Sequence

from truenorm.doctor.diagnosis import LayerState
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Outcome, OutcomeKind, Undecided
from truenorm.doctor.rank import EXPLAINS, FIRST_LAYER, LATER_LAYERS
from truenorm.doctor.remedy import (
    DiagnoseAgain,
    InCode,
    Nothing,
    RepairStatistics,
    ScoredAdvice,
    Step,
    Unfreeze,
)
from truenorm.doctor.score import AS_IS, ESTIMATORS, Scored, samples_to_decide

FAR = 0.5
"""σ from which on a layer is an alarm where nothing is scored."""

_MOST_SAMPLES = 1_000_000


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """The likeliest first; if it explains the shift, other causes are dropped, and only defects follow.

    What only the exclusion of other causes speaks for is dropped where another one comes first. A change of data or
    code that was shown to do better than any repair comes before what only explains the shift.
    """
    ordered = sorted(
        findings,
        key=lambda finding: (not isinstance(finding.remedy, ScoredAdvice), -finding.place, finding.level != "defect"),
    )
    if ordered and ordered[0].place > EXPLAINS:
        ordered[1:] = [finding for finding in ordered[1:] if finding.level == "defect"]
    return [finding for i, finding in enumerate(ordered) if not i or finding.rank not in (FIRST_LAYER, LATER_LAYERS)]


def decide(case: Case, off: Sequence[LayerState], causes: Sequence[Finding], unknown: tuple[str, ...] = ()) -> Outcome:
    """What is wrong, if anything.

    Args:
        case: what was measured.
        off: the layers that are off beyond noise.
        causes: the findings that are not notes, the likeliest first.
        unknown: modules that may be batch norm, and are not understood.
    """
    defect = any(finding.level == "defect" for finding in causes)
    damaged = bool(case.estimates) and case.arriving is None
    kind: OutcomeKind
    after: Scored | None = None
    healthy = False
    if not case.estimates:
        kind, healthy = ("defect", False) if defect else ("no defect", True)
    elif AS_IS not in case.scores:
        kind = "damaged" if damaged else "not scored"
        healthy = not (damaged or defect or any(layer.off > FAR for layer in off))
    elif causes and isinstance(causes[0].remedy, ScoredAdvice):
        kind = "other remedy"
    elif any(isinstance(finding.remedy, Unfreeze) for finding in causes) and case.best_unfrozen is not None:
        kind, after = "frozen", case.unfrozen[case.best_unfrozen]
    elif case.best is not None and (off or damaged):
        kind, after = "repairable", case.scores[case.best]
    elif defect:
        kind = "not repairable"
    else:
        kind, healthy = ("harmless" if off else "sound"), True
    return Outcome(
        kind=kind,
        healthy=healthy,
        data=case.sample is not None,
        off=len(off),
        layers=len(case.stored),
        improved=() if after is None else _improved(case.scores[AS_IS], after),
        undecided=_undecided(case.scores) if kind == "harmless" else None,
        unknown=unknown,
    )


def steps(case: Case, outcome: Outcome, causes: Sequence[Finding]) -> tuple[Step, ...]:
    """What to do now, and what in the next training, by the remedy of the likeliest cause."""
    remedy = causes[0].remedy if causes else None
    scored = AS_IS in case.scores
    if not case.estimates:
        return (Step(remedy=remedy or DiagnoseAgain()),)
    if outcome.healthy:
        return (Step(remedy=Nothing() if scored else DiagnoseAgain(needs_score=True)),)
    if outcome.kind == "other remedy":
        assert remedy is not None
        return (Step(remedy=remedy),)
    repair = RepairStatistics(needs_score=not scored)
    if outcome.kind == "frozen":
        unfreeze = next(finding.remedy for finding in causes if isinstance(finding.remedy, Unfreeze))
        return (Step(remedy=unfreeze), Step(remedy=repair, when="then"))
    repairs = outcome.kind in ("repairable", "damaged", "not scored")
    if isinstance(remedy, InCode):
        return (Step(remedy=remedy), *([Step(remedy=repair, when="then")] if repairs and scored else []))
    later = remedy.next_time if isinstance(remedy, RepairStatistics) else remedy
    if repairs:
        return (Step(remedy=repair), *([] if later is None else [Step(remedy=later, when="later")]))
    return (Step(remedy=later or Nothing(none_better=True)),)


def _improved(before: Scored, after: Scored) -> tuple[Improvement, ...]:
    return tuple(
        Improvement(metric=metric, before=before.mean(metric), after=after.mean(metric))
        for metric, gain in after.gain(before).items()
        if (gain.low or 0.0) > 0
    )


def _undecided(scores: Mapping[str, Scored]) -> Undecided | None:
    """The gain that needs the fewest samples more to be told from noise."""
    before = scores[AS_IS]
    open_gains = [
        Undecided(metric=metric, gain=gain.mean, half_width=gain.half_width, samples=samples)
        for name in ESTIMATORS
        if name in scores
        for metric, gain in scores[name].gain(before).items()
        if gain.half_width is not None
        and gain.mean > before.relevant(metric)
        and (samples := samples_to_decide(gain, len(scores[name].values))) > gain.n
    ]
    fewest = min(open_gains, key=lambda part: part.samples, default=None)
    return None if fewest is None or fewest.samples > _MOST_SAMPLES else fewest

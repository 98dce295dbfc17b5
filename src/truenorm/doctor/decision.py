"""The decision: one value from which verdict, exit code and advice follow."""

from collections.abc import Sequence

from truenorm.doctor.diagnosis import LayerState
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Outcome, OutcomeKind, Undecided
from truenorm.doctor.rank import EXPLAINS, FIRST_LAYER, LATER_LAYERS
from truenorm.doctor.remedy import (
    DiagnoseAgain,
    InCode,
    Nothing,
    ReorderClasses,
    RepairStatistics,
    ScoredAdvice,
    Step,
    Unfreeze,
)
from truenorm.doctor.score import AS_IS, BY_BATCH, ESTIMATORS, Scored, samples_to_decide

FAR = 0.5
"""σ from which on a layer is an alarm where nothing is scored."""

_FEW, _ENOUGH = 10, 100
"""Scored samples below which nothing is told; and the least that is asked for."""

_NEARLY = 0.75
"""How near to the end of its interval a gain must be to be called undecided."""

_MOST_SAMPLES = 1_000_000
"""Samples beyond which a gain is too small to matter."""


_CONTAINED_IN = {"variance convention": "common factor"}
"""A cause, and the one that it is a part of: a factor of means and variances is one of the variances."""


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """The likeliest first; if it explains the shift, other causes are dropped, and only defects follow.

    What only the exclusion of other causes speaks for is dropped where another one comes first. A change of data or
    code that was shown to do better than any repair comes before what only explains the shift.
    """
    causes = {finding.cause for finding in findings}
    ordered = sorted(
        (finding for finding in findings if _CONTAINED_IN.get(finding.cause) not in causes),
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
        unknown: modules that may be batch norm of another make.
    """
    defect = any(finding.level == "defect" for finding in causes)
    damaged = bool(case.estimates) and case.arriving is None
    kind: OutcomeKind
    after: Scored | None = None
    undecided: Undecided | None = None
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
    elif case.best is not None and (
        # Noise in the statistics, beyond which no layer is off, moves scores a little, too: as often for the better.
        off or defect or damaged or case.scores[case.best].is_far_above(case.scores[AS_IS])
    ):
        kind, after = "repairable", case.scores[case.best]
    elif _is_mixed(case, causes):
        kind = "not repairable"
    elif (off or defect) and (undecided := _undecided(case)) is not None:
        kind, healthy = "undecided", not defect
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
        same=case.sample is not None and case.held_out is case.sample,
        undecided=undecided,
        unknown=(*unknown, *case.unreached, *case.unfit),
    )


def _is_mixed(case: Case, causes: Sequence[Finding]) -> bool:
    """Whether calls that see different populations are the likeliest cause, and their own statistics do far better."""
    best = case.best_score
    if not causes or causes[0].cause != "called several times" or BY_BATCH not in case.scores or best is None:
        return False
    return case.scores[BY_BATCH].beats(best)


def steps(case: Case, outcome: Outcome, causes: Sequence[Finding]) -> tuple[Step, ...]:
    """What to do now, and what in the next training, by the remedy of the likeliest cause."""
    remedy = causes[0].remedy if causes else None
    scored = AS_IS in case.scores
    if not case.estimates:
        return (Step(remedy=remedy or DiagnoseAgain()),)
    if outcome.undecided is not None:
        return (Step(remedy=DiagnoseAgain(samples=outcome.undecided.samples)),)
    if outcome.healthy:
        return (Step(remedy=Nothing() if scored else DiagnoseAgain(needs_score=True)),)
    repair = RepairStatistics(
        needs_score=not scored or case.score is not None,
        needs_forward=case.forward is not None,
        needs_mask=case.mask is not None,
    )
    if outcome.kind == "other remedy":
        assert remedy is not None
        # The case is that of the right order: a repair may have to follow. Other advice undoes what repairs undo.
        follows = isinstance(remedy, ReorderClasses) and case.best is not None
        return (Step(remedy=remedy), *([Step(remedy=repair, when="then")] if follows else []))
    if outcome.kind == "frozen":
        thaw = [Step(remedy=finding.remedy) for finding in causes if isinstance(finding.remedy, Unfreeze)]
        return (*thaw, Step(remedy=repair, when="then"))
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
        if (gain.low or 0.0) > 0 or (gain.high or 0.0) < 0
    )


def _undecided(case: Case) -> Undecided | None:
    """The largest gain that noise hides, and how many samples would tell; None where there is none to speak of."""
    scores = case.unfrozen or case.scores
    before = scores[AS_IS]
    hidden: list[Undecided] = []
    for name in ESTIMATORS:
        for metric, gain in scores[name].gain(before).items() if name in scores else ():
            if gain.half_width is None or gain.n < _FEW:
                hidden.append(Undecided(metric=metric, gain=gain.mean, half_width=gain.half_width, samples=_ENOUGH))
            elif (gain.low or 0.0) <= 0 and gain.mean > max(2 * before.relevant(metric), _NEARLY * gain.half_width):
                samples = max(_ENOUGH, samples_to_decide(gain, len(scores[name].values)))
                hidden.append(Undecided(metric=metric, gain=gain.mean, half_width=gain.half_width, samples=samples))
    decided = [part for part in hidden if part.samples <= _MOST_SAMPLES]
    return max(decided, key=lambda part: part.gain, default=None)

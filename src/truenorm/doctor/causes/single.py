"""Batches of one: in train() each sample is normalised by itself, and no stored statistics do that."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import MODE
from truenorm.doctor.remedy import NormaliseAlone
from truenorm.doctor.score import AS_IS, BY_BATCH, scored
from truenorm.errors import TruenormError


def find(case: Case) -> Iterable[Finding]:
    """One by one in train() the network does better than with any statistics, those of single samples among them."""
    if not case.one_by_one or not {AS_IS, BY_BATCH} <= set(case.scores):
        return
    assert case.sample is not None and case.held_out is not None and case.best_score is not None
    alone, best = case.scores[BY_BATCH], case.best_score
    if not alone.is_better_sample_by_sample(best) and not alone.beats(best):
        return
    try:
        statistics = case.measure(case.sample.batched(1))
    except TruenormError:  # one vector has no variance: it was not trained so
        return
    own = scored(case.model, case.held_out, statistics=statistics, score=case.score, forward=case.forward)
    if own is None or not (alone.is_better_sample_by_sample(own) or alone.beats(own)):
        return
    metric = next(iter(alone.values))
    yield Finding(
        cause="batches of one",
        evidence={
            "metric": metric,
            "before": case.scores[AS_IS].mean(metric),
            "after": alone.mean(metric),
            "repaired": max(best.mean(metric), own.mean(metric)),
        },
        rank=MODE,
        remedy=NormaliseAlone(),
    )

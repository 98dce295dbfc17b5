"""Class by class: the scores of each class under each method, and which classes two methods differ in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, compared
from truenorm.metrics.confusion import ClassScores
from truenorm.metrics.intervals import Interval, mean_interval, paired

Score = Literal["sensitivity", "specificity", "f_score"]

_FIRST = ("dmbn", "pooled-0.1", "bn-bfn", "adaptive", "recalibrated")
"""Methods that stand first where classes are compared. Which are compared must not depend on how they come out."""
_MOST_METHODS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A class, or an average over the classes.

    Args:
        name: of the class or the average.
        support: number of test images.
        scores: method → seed → scores, in [0, 1].
    """

    name: str
    support: int
    scores: Mapping[str, Mapping[int, ClassScores]]

    def interval(self, method: str, score: Score) -> Interval | None:
        """Mean over seeds in percent, with its 95 % interval; None where the score is undefined."""
        values = self._defined(method, score)
        return mean_interval(list(values.values())) if values else None

    def difference(self, method: str) -> Interval | None:
        """F under a method minus F under the baseline in points, paired by seed; None where no seed has both.

        The standard deviation of the differences is not taken to be smaller than one test image of the class.
        """
        values, base = self._defined(method, "f_score"), self._defined(BASELINE, "f_score")
        common = [seed for seed in values if seed in base]
        if not common or not self.support:
            return None
        return paired([values[seed] for seed in common], [base[seed] for seed in common], resolution=100 / self.support)

    def _defined(self, method: str, score: Score) -> dict[int, float]:
        """Seed → the score in percent, where it is defined."""
        values = {seed: getattr(scores, score) for seed, scores in self.scores.get(method, {}).items()}
        return {seed: 100 * value for seed, value in sorted(values.items()) if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ByClass:
    """A setting class by class.

    Args:
        classes: in their order.
        averages: macro and weighted.
        methods: that are compared with the baseline, the sweep left out: first those of a fixed list.
        num_methods: how many there are in all.
        differences: method → number of a class → its F under the method minus that under the baseline, in points.
        beyond: those of them that chance does not explain: 95 %, Holm over the classes of a method.
    """

    classes: tuple[Line, ...]
    averages: tuple[Line, ...]
    methods: tuple[str, ...]
    num_methods: int
    differences: Mapping[str, Mapping[int, Interval]]
    beyond: Mapping[str, Mapping[int, Interval]]


def by_class(summary: StudySummary) -> ByClass | None:
    """A setting class by class; None where the record holds no confusion matrices of the baseline."""
    if not summary.confusions_of(BASELINE):
        return None
    every = [arm for arm in (*compared(summary), *summary.networks) if summary.confusions_of(arm)]
    every.sort(key=lambda arm: _FIRST.index(arm) if arm in _FIRST else len(_FIRST))
    methods = tuple(every[:_MOST_METHODS])
    confusions = {arm: summary.confusions_of(arm) for arm in (BASELINE, *methods)}
    first = next(iter(confusions[BASELINE].values()))
    by_arm = {arm: {seed: one.classes for seed, one in of.items()} for arm, of in confusions.items()}
    classes = tuple(
        Line(
            name=name,
            support=sum(first.counts[number]),
            scores={arm: {seed: scores[number] for seed, scores in of.items()} for arm, of in by_arm.items()},
        )
        for number, name in enumerate(summary.class_names)
    )
    macro = {arm: {seed: one.macro for seed, one in of.items()} for arm, of in confusions.items()}
    weighted = {arm: {seed: one.weighted for seed, one in of.items()} for arm, of in confusions.items()}
    differences = {
        method: {
            number: difference
            for number, line in enumerate(classes)
            if (difference := line.difference(method)) is not None
        }
        for method in methods
    }
    return ByClass(
        classes=classes,
        averages=(
            Line(name="macro average", support=first.num, scores=macro),
            Line(name="weighted average", support=first.num, scores=weighted),
        ),
        methods=methods,
        num_methods=len(every),
        differences=differences,
        beyond={method: beyond_noise(of_classes) for method, of_classes in differences.items()},
    )

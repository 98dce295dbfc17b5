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

    def difference(self, method: str, score: Score = "f_score") -> Interval | None:
        """Method minus the baseline in points, paired by seed; None where no seed has both.

        The standard deviation of the differences is not taken to be smaller than one test image of the class.
        """
        values, base = self._defined(method, score), self._defined(BASELINE, score)
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
    """

    classes: tuple[Line, ...]
    averages: tuple[Line, ...]
    methods: tuple[str, ...]
    num_methods: int

    def differences(self, method: str) -> dict[int, Interval]:
        """Number of a class → its F under the method minus that under the baseline, in points."""
        found = {number: line.difference(method) for number, line in enumerate(self.classes)}
        return {number: difference for number, difference in found.items() if difference is not None}

    def beyond_noise(self, method: str) -> dict[int, Interval]:
        """Those that chance does not explain: 95 %, Holm over the classes."""
        return beyond_noise(self.differences(method))


def by_class(summary: StudySummary) -> ByClass | None:
    """A setting class by class; None where the record holds no confusion matrices of the baseline."""
    if not summary.confusions_of(BASELINE):
        return None
    all_methods = [arm for arm in (*compared(summary), *summary.networks) if summary.confusions_of(arm)]
    all_methods.sort(key=lambda arm: _FIRST.index(arm) if arm in _FIRST else len(_FIRST))
    methods = tuple(all_methods[:_MOST_METHODS])
    confusions = {arm: summary.confusions_of(arm) for arm in (BASELINE, *methods)}
    scores = {arm: {seed: one.classes for seed, one in of.items()} for arm, of in confusions.items()}
    first = next(iter(confusions[BASELINE].values()))
    classes = tuple(
        Line(
            name=name,
            support=first.classes[number].support,
            scores={arm: {seed: of_classes[number] for seed, of_classes in of.items()} for arm, of in scores.items()},
        )
        for number, name in enumerate(summary.class_names)
    )
    macro = {arm: {seed: one.macro for seed, one in of.items()} for arm, of in confusions.items()}
    weighted = {arm: {seed: one.weighted for seed, one in of.items()} for arm, of in confusions.items()}
    averages = tuple(
        Line(name=f"{name} average", support=first.num, scores=of)
        for name, of in (("macro", macro), ("weighted", weighted))
    )
    return ByClass(classes=classes, averages=averages, methods=methods, num_methods=len(all_methods))

"""A confusion matrix, and what follows from it for each class and on average.      N = samples, K = classes"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from truenorm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class against the rest, or an average of them; in [0, 1], 1 is best.

    A score whose denominator is 0 is None: it is undefined, and neither 0 nor 1.

    Args:
        sensitivity: TP / (TP + FN), also called recall; None for a class without a sample.
        specificity: TN / (TN + FP); None where every sample is of this class.
        f_score: 2TP / (2TP + FP + FN); of a class without a sample 0 where it is predicted, else None.
        support: number of samples of the class; of an average, of all classes.

    Example:
        >>> ClassScores(sensitivity=0.5, specificity=1.0, f_score=2 / 3, support=2).support
        2
    """

    sensitivity: float | None
    specificity: float | None
    f_score: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many samples of each class were predicted as each class.

    Two identities: weighted sensitivity is always the accuracy, and so is macro sensitivity where all classes that
    occur are of one size.

    Args:
        counts: K rows, the true classes, of K columns, the predicted ones.

    Raises:
        InvalidInput: the counts are not a square of integers >= 0 with at least one sample.

    Source: scores of a class against the rest after Sokolova & Lapalme 2009.

    Example:
        >>> confusion = Confusion(((1, 1, 0), (0, 2, 0), (0, 0, 2)))
        >>> confusion.num, confusion.classes[0].sensitivity, confusion.classes[1].specificity
        (6, 0.5, 0.75)
    """

    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for true, row in enumerate(self.counts):
            if len(row) != len(self.counts):
                raise InvalidInput(f"row {true} has {len(row)} counts; expected {len(self.counts)}, one of each class")
            if min(row) < 0:
                raise InvalidInput(f"a count of row {true} is {min(row)}; expected 0 or more")
        if not self.num:
            raise InvalidInput("there are no samples to score; expected one or more")

    @property
    def num(self) -> int:
        """Number of samples."""
        return sum(map(sum, self.counts))

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes that no sample is of."""
        return tuple(true for true, row in enumerate(self.counts) if not any(row))

    @property
    def accuracy(self) -> float:
        """Share of samples whose prediction is the true class.

        Example:
            >>> Confusion(((1, 1), (0, 2))).accuracy
            0.75
        """
        return sum(row[true] for true, row in enumerate(self.counts)) / self.num

    @property
    def classes(self) -> tuple[ClassScores, ...]:
        """Scores of each class against the rest.

        Example:
            >>> Confusion(((3, 1), (0, 0))).classes[1]
            ClassScores(sensitivity=None, specificity=0.75, f_score=0.0, support=0)
        """
        num, predicted = self.num, [sum(column) for column in zip(*self.counts, strict=True)]
        return tuple(
            _against_the_rest(tp=row[true], positives=sum(row), predicted=predicted[true], num=num)
            for true, row in enumerate(self.counts)
        )

    @property
    def macro(self) -> ClassScores:
        r"""Plain mean over the classes that occur.

        $$ \frac1{|P|} \sum_{c \in P} s_c, \qquad P = \{c : TP_c + FN_c > 0\} $$

        A sample that is predicted as a class that does not occur counts against its own class only. (scikit-learn's
        default takes classes in that are predicted and do not occur; its `labels=` says otherwise.)

        Example:
            >>> Confusion(((1, 1), (0, 6))).macro.sensitivity
            0.75
        """
        return self._average([1 for _ in self.counts])

    @property
    def weighted(self) -> ClassScores:
        r"""Mean over the classes that occur, each weighted by its number of samples.

        $$ \frac1N \sum_c (TP_c + FN_c) \, s_c $$

        Example:
            >>> confusion = Confusion(((1, 1), (0, 6)))
            >>> confusion.weighted.sensitivity, confusion.accuracy
            (0.875, 0.875)
        """
        return self._average([sum(row) for row in self.counts])

    def _average(self, weights: Sequence[int]) -> ClassScores:
        present = [(scores, weight) for scores, weight in zip(self.classes, weights, strict=True) if scores.support]

        def mean(name: str) -> float | None:
            values = [(getattr(scores, name), weight) for scores, weight in present]
            if any(value is None for value, _ in values):
                return None  # specificity where all samples are of one class
            return fsum(value * weight for value, weight in values) / sum(weight for _, weight in values)

        return ClassScores(mean("sensitivity"), mean("specificity"), mean("f_score"), self.num)


def _against_the_rest(*, tp: int, positives: int, predicted: int, num: int) -> ClassScores:
    negatives = num - positives
    return ClassScores(
        sensitivity=_ratio(tp, positives),
        specificity=_ratio(negatives - (predicted - tp), negatives),
        f_score=_ratio(2 * tp, positives + predicted),
        support=positives,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

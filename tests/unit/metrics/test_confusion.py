"""The confusion matrix and the scores of classes, against scikit-learn on random and degenerate cases."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)
from torch.nn.functional import one_hot

from truenorm.errors import InvalidInput
from truenorm.metrics.classification import scores
from truenorm.metrics.confusion import ClassScores, Confusion


def confusion_of(truth, predicted, num_classes):
    """As the study has it: from logits and labels."""
    return scores(one_hot(torch.tensor(predicted), num_classes).float(), torch.tensor(truth)).confusion


@st.composite
def answers(draw):
    """True and predicted classes of 1 to 40 samples. Each has classes of its own to draw from, so that many cases lack
    a class in one, in the other or in both, or have one class alone."""
    num_classes, num = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    some = st.sets(st.integers(0, num_classes - 1), min_size=1).map(sorted)
    return *(
        draw(st.lists(st.sampled_from(draw(some)), min_size=num, max_size=num)) for _ in ("truth", "predicted")
    ), num_classes  # fmt: skip


ABSENT_FROM_TRUTH = ([0, 0, 1], [0, 2, 1], 3)
ABSENT_FROM_PREDICTIONS = ([0, 1, 2], [0, 1, 1], 3)
ABSENT_FROM_BOTH = ([0, 1, 1], [0, 0, 1], 3)
ONE_CLASS = ([1, 1, 1], [1, 1, 1], 2)
ONE_CLASS_IN_TRUTH = ([1, 1, 1], [1, 0, 2], 3)
ONE_CLASS_PREDICTED = ([0, 1, 2], [1, 1, 1], 3)


def degenerate(test):
    for case in (
        ABSENT_FROM_TRUTH, ABSENT_FROM_PREDICTIONS, ABSENT_FROM_BOTH, ONE_CLASS, ONE_CLASS_IN_TRUTH, ONE_CLASS_PREDICTED,
    ):  # fmt: skip
        test = example(case)(test)
    return test


def or_nan(value):
    return math.nan if value is None else value


def close(found, expected):
    torch.testing.assert_close(
        torch.tensor([or_nan(value) for value in found], dtype=torch.float64),
        torch.tensor([float(value) for value in expected], dtype=torch.float64),
        rtol=1e-12, atol=1e-12, equal_nan=True,
    )  # fmt: skip


@degenerate
@given(answers())
def test_the_counts_are_scikit_learns(case):
    truth, predicted, num_classes = case
    expected = confusion_matrix(truth, predicted, labels=range(num_classes))
    assert confusion_of(truth, predicted, num_classes).counts == tuple(map(tuple, expected.tolist()))


@degenerate
@given(answers())
def test_each_class_has_scikit_learns_scores_and_none_where_it_divides_by_zero(case):
    truth, predicted, num_classes = case
    confusion = confusion_of(truth, predicted, num_classes)
    _, recall, f_score, support = precision_recall_fscore_support(
        truth, predicted, labels=range(num_classes), zero_division=math.nan
    )
    close([one.sensitivity for one in confusion.classes], recall)
    close([one.f_score for one in confusion.classes], f_score)
    assert [one.support for one in confusion.classes] == support.tolist()
    # Specificity is the sensitivity of "not this class".
    for one, ((tn, fp), _) in zip(
        confusion.classes, multilabel_confusion_matrix(truth, predicted, labels=range(num_classes)), strict=True
    ):
        close([one.specificity], [tn / (tn + fp) if tn + fp else math.nan])
    assert confusion.absent == tuple(k for k in range(num_classes) if k not in truth)


@degenerate
@given(answers())
def test_averages_are_scikit_learns_over_the_classes_of_the_truth(case):
    truth, predicted, num_classes = case
    confusion, present = confusion_of(truth, predicted, num_classes), sorted(set(truth))
    for average, found in (("macro", confusion.macro), ("weighted", confusion.weighted)):
        _, recall, f_score, _ = precision_recall_fscore_support(
            truth,
            predicted,
            labels=present,
            average=average,
            zero_division=0,  # of precision alone
        )
        close([found.sensitivity, found.f_score], [recall, f_score])
        assert found.support == len(truth)
    specificities = [confusion.classes[k].specificity for k in present]
    alone = len(present) == 1
    assert (confusion.macro.specificity is None) is (confusion.weighted.specificity is None) is alone
    if not alone:
        close([confusion.macro.specificity], [sum(specificities) / len(present)])
        shares = [truth.count(k) / len(truth) for k in present]
        close(
            [confusion.weighted.specificity],
            [sum(share * value for share, value in zip(shares, specificities, strict=True))],
        )


@degenerate
@given(answers())
def test_accuracy_is_the_weighted_sensitivity(case):
    truth, predicted, num_classes = case
    confusion = confusion_of(truth, predicted, num_classes)
    close([confusion.accuracy, confusion.weighted.sensitivity], [accuracy_score(truth, predicted)] * 2)


def test_by_hand():
    confusion = confusion_of([0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 2, 2], 4)
    assert confusion.counts == ((2, 1, 0, 0), (0, 1, 1, 0), (0, 0, 0, 0), (0, 0, 1, 0))
    assert confusion.classes == (
        ClassScores(2 / 3, 1.0, 4 / 5, 3),
        ClassScores(1 / 2, 3 / 4, 2 / 4, 2),
        ClassScores(None, 4 / 6, 0.0, 0),  # predicted, and never true: F is 0, and sensitivity is undefined
        ClassScores(0.0, 1.0, 0.0, 1),
    )
    assert (confusion.accuracy, confusion.absent, confusion.num) == (0.5, (2,), 6)
    close([confusion.macro.sensitivity, confusion.macro.f_score], [(2 / 3 + 1 / 2) / 3, (4 / 5 + 1 / 2) / 3])
    close([confusion.weighted.f_score], [(3 * 4 / 5 + 2 * 1 / 2) / 6])


def test_a_class_that_is_neither_true_nor_predicted_has_no_f():
    assert confusion_of(*ABSENT_FROM_BOTH).classes[2] == ClassScores(None, 1.0, None, 0)


def test_one_class_alone_has_no_negatives():
    found = confusion_of(*ONE_CLASS)
    assert found.classes == (ClassScores(None, 1.0, None, 0), ClassScores(1.0, None, 1.0, 3))
    assert found.macro == found.weighted == ClassScores(1.0, None, 1.0, 3)


def test_this_comparison_sees_rows_and_columns_exchanged():
    """Planted: predicted classes as rows."""
    truth, predicted, num_classes = ABSENT_FROM_PREDICTIONS
    exchanged = Confusion(tuple(zip(*confusion_of(truth, predicted, num_classes).counts, strict=True)))
    _, recall, _, _ = precision_recall_fscore_support(truth, predicted, labels=range(3), zero_division=math.nan)
    with pytest.raises(AssertionError):
        close([one.sensitivity for one in exchanged.classes], recall)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (((1, 2),), "row 0 has 2 counts; expected 1"),
        (((1, 2), (3,)), "row 1 has 1 counts; expected 2"),
        (((1, 0), (-1, 1)), "a count of row 1 is -1"),
        (((0, 0), (0, 0)), "no samples"),
        ((), "no samples"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(counts, said):
    with pytest.raises(InvalidInput, match=said):
        Confusion(counts)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss, recall_score
from torch.testing import assert_close

from truenorm.errors import InvalidInput
from truenorm.metrics.classification import Scores, is_balanced, scores


def close(a: float, b: float) -> None:
    assert_close(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def guessing(guesses: list[int], num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(guesses), num_classes).float()


def test_known_answer_by_hand():
    # class 0: TP 1, FN 1, FP 0, TN 4; class 1: TP 2, FN 0, FP 1, TN 3; class 2: TP 2, FN 0, FP 0, TN 4
    result = scores(guessing([0, 1, 1, 1, 2, 2], 3), torch.tensor([0, 0, 1, 1, 2, 2]))
    close(result.accuracy, 5 / 6)
    close(result.sensitivity, (1 / 2 + 1 + 1) / 3)
    close(result.specificity, (1 + 3 / 4 + 1) / 3)
    close(result.f_score, (2 / 3 + 4 / 5 + 1) / 3)
    denominator = torch.tensor(2 + torch.e, dtype=torch.float64).log().item()
    close(result.nll, (5 * (denominator - 1) + denominator) / 6)
    assert (result.absent, result.num) == ((), 6)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    num_classes, num = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(num, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.tensor(draw(st.lists(st.integers(0, num_classes - 1), min_size=num, max_size=num)))
    return logits, labels


@given(predictions())
def test_macro_scores_agree_with_scikit_learn_over_the_classes_present(case):
    logits, labels = case
    result = scores(logits, labels)
    truth, guess = labels.numpy(), logits.argmax(1).numpy()
    present = sorted(set(truth.tolist()))
    close(result.sensitivity, recall_score(truth, guess, labels=present, average="macro"))
    close(result.f_score, f1_score(truth, guess, labels=present, average="macro"))
    probabilities = logits.softmax(1).numpy()
    close(result.nll, log_loss(truth, probabilities, labels=range(logits.shape[1])))
    assert result.absent == tuple(k for k in range(logits.shape[1]) if k not in present)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_on_a_balanced_set_two_scores_say_nothing_new(num_classes, per_class, seed):
    labels = torch.arange(num_classes).repeat(per_class)
    logits = torch.randn(len(labels), num_classes, generator=torch.Generator().manual_seed(seed))
    result = scores(logits, labels)
    assert is_balanced(labels)
    close(result.sensitivity, result.accuracy)
    close(result.specificity, 1 - (1 - result.accuracy) / (num_classes - 1))


def test_on_an_unbalanced_set_the_identity_fails():
    labels = torch.tensor([0, 0, 0, 1])
    result = scores(guessing([0, 0, 0, 0], 2), labels)
    assert not is_balanced(labels)
    assert (result.accuracy, result.sensitivity) == (0.75, 0.5)


def test_absent_classes_are_named_and_enter_no_mean():
    result = scores(guessing([0, 1, 1, 2], 4), torch.tensor([0, 0, 1, 1]))
    assert result.absent == (2, 3)
    close(result.sensitivity, 0.5)


def test_one_class_alone_has_no_specificity():
    result = scores(guessing([2, 0], 3), torch.tensor([2, 2]))
    assert (result.specificity, result.sensitivity, result.absent) == (None, 0.5, (0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_low_precision_and_with_gradient_are_taken(dtype):
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=dtype, requires_grad=True)
    assert isinstance(scores(logits, torch.tensor([0, 1], dtype=torch.uint8)), Scores)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (torch.zeros(3), torch.zeros(3).long(), r"logits have shape \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3).long(), "two classes or more"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), "logits are torch.int64"),
        (torch.zeros(3, 2), torch.zeros(3, 1).long(), r"labels have shape \(3, 1\)"),
        (torch.zeros(3, 2), torch.zeros(3), "labels are torch.float32"),
        (torch.zeros(3, 2), torch.zeros(2).long(), "3 rows of logits and 2 labels"),
        (torch.zeros(0, 2), torch.zeros(0).long(), "no samples"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "labels go up to 2; expected 0 to 1"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "label of row 1 is -1"),
        (torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), torch.tensor([0, 1]), "row 1 of the logits"),
        (torch.tensor([[torch.inf, 1.0]]), torch.tensor([0]), "row 0 of the logits"),
    ],
)
def test_what_cannot_be_scored_is_said(logits, labels, said):
    with pytest.raises(InvalidInput, match=said):
        scores(logits, labels)


def test_a_planted_bug_is_seen():
    result = scores(guessing([0, 1, 1, 1], 2), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(AssertionError):
        close(result.specificity, result.f_score)

"""Scores of a classifier from its confusion matrix.      N = samples, K = classes"""

from dataclasses import dataclass

import torch
from torch import Tensor

from truenorm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Scores:
    """What one test set says about one classifier.

    All but `nll` lie in [0, 1]; 1 is best. Macro scores are plain means over the classes that
    occur in the truth, each class against the rest.

    Args:
        accuracy: share of samples whose largest logit is the true class.
        sensitivity: macro TP / (TP + FN), also called recall.
        specificity: macro TN / (TN + FP).
        f_score: macro 2TP / (2TP + FP + FN).
        nll: mean negative log likelihood in nats; 0 is best.
        absent: classes that do not occur in the truth and so enter no mean.
        num: number of samples.

    Example:
        >>> Scores(accuracy=1.0, sensitivity=1.0, specificity=1.0, f_score=1.0, nll=0.0, absent=(), num=8).num
        8
    """

    accuracy: float
    sensitivity: float
    specificity: float
    f_score: float
    nll: float
    absent: tuple[int, ...]
    num: int


def scores(logits: Tensor, labels: Tensor) -> Scores:
    r"""Accuracy, macro sensitivity, specificity and F, and the negative log likelihood.

    $$ F = \frac1{|P|} \sum_{c \in P} \frac{2TP_c}{2TP_c + FP_c + FN_c}, \qquad P = \{c : TP_c + FN_c > 0\} $$

    A sample of a present class that is taken for an absent one counts against its own class only.
    If one class alone is present it has no negatives: specificity is then 1, as nothing can be
    taken for that class falsely; `Scores.absent` shows the case.

    Args:
        logits: unnormalised log probabilities, shape `(N, K)`, K >= 2, finite.
        labels: true classes, integers in 0..K-1, shape `(N,)`.

    Returns:
        The scores; ties between logits go to the first class.

    Raises:
        InvalidInput: shapes, types or values are not as above, or there is no sample.

    Source: one against the rest after Sokolova & Lapalme 2009, macro averages.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
        >>> result = scores(logits, torch.tensor([0, 1, 1, 1]))
        >>> result.accuracy, result.sensitivity, result.specificity
        (0.75, 0.8333333333333333, 0.8333333333333333)
    """
    _check(logits, labels)
    logits_NK, labels_N = logits.detach().cpu().double(), labels.detach().cpu().long()
    num_classes = logits_NK.shape[1]
    guesses_N = logits_NK.argmax(dim=1)
    tn_K, fp_K, fn_K, tp_K = _one_against_rest(labels_N, guesses_N, num_classes)
    present_K = (tp_K + fn_K) > 0
    negatives_K = tn_K + fp_K
    specificity_K = torch.where(negatives_K > 0, tn_K / negatives_K.clamp(min=1), 1.0)
    return Scores(
        accuracy=(guesses_N == labels_N).double().mean().item(),
        sensitivity=(tp_K / (tp_K + fn_K))[present_K].mean().item(),
        specificity=specificity_K[present_K].mean().item(),
        f_score=(2 * tp_K / (2 * tp_K + fp_K + fn_K))[present_K].mean().item(),
        nll=torch.nn.functional.cross_entropy(logits_NK, labels_N).item(),
        absent=tuple(int(c) for c in (~present_K).nonzero().flatten()),
        num=len(labels_N),
    )


def is_balanced(labels: Tensor) -> bool:
    """Whether every class that occurs does so equally often.

    On a balanced test set of K classes sensitivity is the accuracy, and specificity is
    1 - (1 - accuracy) / (K - 1): four scores then carry the information of two.

    Raises:
        InvalidInput: `labels` is not one row of at least one integer >= 0.

    Example:
        >>> is_balanced(torch.tensor([0, 1, 1, 0])), is_balanced(torch.tensor([0, 1, 1]))
        (True, False)
    """
    _check_labels(labels)
    counts_K = labels.cpu().bincount()
    return bool((counts_K[counts_K > 0] == counts_K.max()).all())


def _one_against_rest(labels_N: Tensor, guesses_N: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True negatives, false positives, false negatives and true positives of each class."""
    pairs_N = labels_N * num_classes + guesses_N
    confusion_KK = torch.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes).double()
    tp_K = confusion_KK.diag()
    fp_K, fn_K = confusion_KK.sum(0) - tp_K, confusion_KK.sum(1) - tp_K
    return len(labels_N) - tp_K - fp_K - fn_K, fp_K, fn_K, tp_K


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InvalidInput(f"logits have shape {tuple(logits.shape)}; expected (samples, classes), two classes or more")
    if not logits.is_floating_point():
        raise InvalidInput(f"logits are {logits.dtype}; expected floating point, one number per class")
    _check_labels(labels)
    if len(labels) != len(logits):
        raise InvalidInput(f"there are {len(logits)} rows of logits and {len(labels)} labels; expected as many")
    num_classes = logits.shape[1]
    high = int(labels.max())
    if high >= num_classes:
        raise InvalidInput(f"labels go up to {high}; expected 0 to {num_classes - 1}, a column of logits each")
    finite = torch.isfinite(logits).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise InvalidInput(f"row {row} of the logits holds a number that is not finite; the model has diverged")


def _check_labels(labels: Tensor) -> None:
    if labels.ndim != 1:
        raise InvalidInput(f"labels have shape {tuple(labels.shape)}; expected one class per sample, (samples,)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels are {labels.dtype}; expected integers")
    if not len(labels):
        raise InvalidInput("there are no samples to score; expected one or more")
    if labels.min() < 0:
        raise InvalidInput(f"the label of row {int(labels.argmin())} is {int(labels.min())}; expected 0 or more")

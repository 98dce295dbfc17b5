"""Scores of a classifier from its outputs.      N = samples, K = classes"""

from dataclasses import dataclass

import torch
from torch import Tensor

from truenorm.errors import InvalidInput
from truenorm.metrics.confusion import Confusion


@dataclass(frozen=True, slots=True)
class Scores:
    """What one test set says about one classifier.

    Args:
        confusion: how many samples of each class were predicted as each class.
        nll: mean negative log likelihood in nats; 0 is best.

    Example:
        >>> result = Scores(confusion=Confusion(((4, 0), (2, 2))), nll=0.5)
        >>> result.accuracy, result.sensitivity, result.specificity, result.num
        (0.75, 0.75, 0.75, 8)
    """

    confusion: Confusion
    nll: float

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is the true class."""
        return self.confusion.accuracy

    @property
    def sensitivity(self) -> float | None:
        """Macro TP / (TP + FN), as in `Confusion.macro`."""
        return self.confusion.macro.sensitivity

    @property
    def specificity(self) -> float | None:
        """Macro TN / (TN + FP); None where all samples are of one class."""
        return self.confusion.macro.specificity

    @property
    def f_score(self) -> float | None:
        """Macro 2TP / (2TP + FP + FN)."""
        return self.confusion.macro.f_score

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes that do not occur in the truth and so enter no mean."""
        return self.confusion.absent

    @property
    def num(self) -> int:
        """Number of samples."""
        return self.confusion.num


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """The confusion matrix, what follows from it, and the negative log likelihood.

    Args:
        logits: unnormalised log probabilities, shape `(N, K)`, K >= 2, finite.
        labels: true classes, integers in 0..K-1, shape `(N,)`.

    Returns:
        The scores; ties between logits go to the first class.

    Raises:
        InvalidInput: shapes, types or values are not as above, or there is no sample.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
        >>> result = scores(logits, torch.tensor([0, 1, 1, 1]))
        >>> result.accuracy, result.sensitivity, result.specificity
        (0.75, 0.8333333333333333, 0.8333333333333333)
    """
    _check(logits, labels)
    logits_NK, labels_N = logits.detach().cpu().double(), labels.detach().cpu().long()
    return Scores(
        confusion=_confusion(labels_N, logits_NK.argmax(dim=1), logits_NK.shape[1]),
        nll=torch.nn.functional.cross_entropy(logits_NK, labels_N).item(),
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


def _confusion(labels_N: Tensor, predictions_N: Tensor, num_classes: int) -> Confusion:
    pairs_N = labels_N * num_classes + predictions_N
    counts_KK = torch.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes)
    return Confusion(tuple(map(tuple, counts_KK.tolist())))


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

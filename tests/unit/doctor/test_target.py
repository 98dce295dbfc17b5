"""What labels are taken for, and what each sample scores, against NumPy and torch's losses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from truenorm.data.batches import Batch
from truenorm.doctor.target import ACCURACY, LIKELIHOOD, SQUARED, Target, logits_in, rate, target_of
from truenorm.errors import MissingFunction

N, C = 6, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.tensor([0, 3, 1, 2, 1, 0])
MASK = torch.randint(0, C, (N, 5, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "dim"),
    [
        (drawn(N, C), CLASSES, "classes", 1),
        (drawn(N, C), CLASSES[:, None], "classes", 1),
        (drawn(N, 1), CLASSES % 2, "classes", 1),
        (drawn(N), CLASSES % 2, "classes", 1),
        (drawn(N, 1), CLASSES, "values", None),  # counts, not classes
        (drawn(N, C, 5, 5), MASK, "classes of positions", 1),
        (drawn(N, C, 5, 5), MASK[:, None], "classes of positions", 1),
        (drawn(N, 5, 5, C), MASK, "classes of positions", 3),
        (drawn(N, C, 7), MASK[:, 0, :1].expand(N, 7), "classes of positions", 1),
        (drawn(N, C), F.one_hot(CLASSES, C), "class probabilities", 1),
        (drawn(N, C), F.one_hot(CLASSES, C).float(), "class probabilities", 1),
        (drawn(N, C), torch.softmax(drawn(N, C, seed=2), 1), "class probabilities", 1),
        (drawn(N, C), (drawn(N, C, seed=2) > 0).float(), "several labels", None),
        (drawn(N, C, 3), (drawn(N, C, 3, seed=2) > 0), "several labels", None),
        (drawn(N, 1), drawn(N, seed=2), "values", None),
        (drawn(N), drawn(N, 1, seed=2), "values", None),
        (drawn(N, C, 5, 5), drawn(N, C, 5, 5, seed=2), "values", None),
    ],
)
def test_what_labels_are_taken_for(logits, labels, kind, dim):
    assert target_of(logits, [labels]) == Target(kind=kind, class_dim=dim)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (drawn(N, C), CLASSES[:3]),
        (drawn(N, C, 5, 5), CLASSES),
        (drawn(N, C), drawn(N, C + 1)),
        (drawn(N, C), 0.9 * torch.rand(N, C)),  # soft labels, or values?
        (drawn(N, C), torch.zeros(N, dtype=torch.complex64)),
        (torch.ones(N, C, dtype=torch.int64), CLASSES),
        (torch.tensor(1.0), CLASSES),
    ],
)
def test_what_does_not_fit_is_not_scored(logits, labels):
    assert target_of(logits, [labels]) is None


def rated(logits, labels):
    target = target_of(logits, [labels])
    return rate(target, logits, Batch.of((torch.zeros(len(logits), 1), labels)))


def test_positions_without_a_class_do_not_count():
    logits, mask = drawn(N, C, 5, 5), MASK.clone()
    mask[:, :2] = 255
    mask[0] = -100  # a sample without any
    values = rated(logits, mask)
    log = F.log_softmax(logits.double(), 1).numpy()
    expected = [np.mean([log[n, mask[n, i, j], i, j] for i in range(2, 5) for j in range(5)]) for n in range(1, N)]
    np.testing.assert_allclose(values[LIKELIHOOD].numpy(), expected)
    right = (logits.argmax(1) == mask)[1:, 2:].double().mean((1, 2))
    torch.testing.assert_close(values[ACCURACY], right)


def test_a_class_that_the_output_has_not_is_named():
    mask = MASK.clone()
    mask[0, 0, 0] = 17
    with pytest.raises(MissingFunction, match="have a class 17, the model gives 4"):
        rated(drawn(N, C, 5, 5), mask)


def test_several_labels_against_torch():
    logits, labels = drawn(N, C), (drawn(N, C, seed=2) > 0).float()
    values = rated(logits, labels)
    loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="none")
    torch.testing.assert_close(values[LIKELIHOOD], -loss.mean(1))
    torch.testing.assert_close(values[ACCURACY], ((logits > 0) == (labels > 0)).double().mean(1))


def test_values_against_torch():
    logits, labels = drawn(N, 1), drawn(N, seed=2)
    expected = -F.mse_loss(logits[:, 0].double(), labels.double(), reduction="none")
    torch.testing.assert_close(rated(logits, labels)[SQUARED], expected)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (drawn(N, C), CLASSES),
        (drawn(N, C, 5, 5), MASK),
        (drawn(N, C), torch.softmax(drawn(N, C, seed=2), 1)),
    ],
)
def test_outputs_that_are_probabilities_are_taken_for_them(logits, labels):
    for metric, value in rated(torch.softmax(logits, 1), labels).items():
        torch.testing.assert_close(value, rated(logits, labels)[metric], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("labels", [(drawn(N, C, seed=2) > 0).float(), CLASSES % 2])
def test_single_probabilities(labels):
    logits = drawn(N, C) if labels.ndim == 2 else drawn(N, 1)
    for metric, value in rated(torch.sigmoid(logits), labels).items():
        torch.testing.assert_close(value, rated(logits, labels)[metric], rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_is_wrong():
    logits = drawn(N, C)
    logits[2] = torch.nan
    values = rated(logits, CLASSES)
    assert values[ACCURACY][2] == 0 and values[LIKELIHOOD][2] == pytest.approx(np.log(1e-12))


@pytest.mark.parametrize(
    "wrap", [lambda y: y, lambda y: (y, 1), lambda y: [y], lambda y: {"out": y}, lambda y: {"logits": y}]
)
def test_outputs_as_networks_have_them(wrap):
    y = drawn(N, C)
    assert logits_in(wrap(y)) is y
    assert logits_in({"loss": y}) is None and logits_in(None) is None and logits_in([]) is None

import copy
import pickle

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from truenorm.errors import InvalidInput
from truenorm.nn import BatchFreeNorm

SHAPES = [(3, 8), (3, 8, 5), (3, 8, 4, 6), (2, 8, 3, 2, 2), (1, 8)]


def with_weights(norm):
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_group_norm(shape, groups):
    norm, x = with_weights(BatchFreeNorm(groups, 8)), torch.randn(shape)
    torch.testing.assert_close(norm(x), F.group_norm(x, groups, norm.weight, norm.bias, 1e-5), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_group_is_layer_norm_over_channels_and_positions(shape):
    x = torch.randn(shape)
    torch.testing.assert_close(BatchFreeNorm(1, 8)(x), F.layer_norm(x, shape[1:]))


def test_a_group_for_each_channel_is_instance_norm():
    x = torch.randn(3, 8, 4, 6)
    torch.testing.assert_close(BatchFreeNorm(8, 8)(x), F.instance_norm(x))


def test_these_comparisons_see_another_grouping():
    """Planted: two groups are not layer norm."""
    x = torch.randn(3, 8)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(BatchFreeNorm(2, 8)(x), F.layer_norm(x, (8,)))


def test_each_sample_by_itself():
    norm, x = BatchFreeNorm(2, 8), torch.randn(5, 8)
    torch.testing.assert_close(norm(x)[2:3], norm(x[2:3]))


@pytest.mark.parametrize(
    ("groups", "shape"), [(4, (3, 8)), (8, (3, 8)), (8, (3, 8, 1, 1)), (8, (2, 8, 3)), (4, (3, 8, 1))]
)
def test_groups_of_fewer_than_four_values_are_refused(groups, shape):
    with pytest.raises(InvalidInput, match="below 4 a group's output collapses"):
        BatchFreeNorm(groups, 8)(torch.randn(shape))


@pytest.mark.parametrize(("groups", "shape"), [(2, (3, 8)), (8, (3, 8, 2, 2)), (4, (3, 8, 2)), (2, (1, 8, 1, 1))])
def test_groups_of_four_values_are_taken(groups, shape):
    x = torch.randn(shape)
    torch.testing.assert_close(BatchFreeNorm(groups, 8)(x), F.group_norm(x, groups))


def test_why_they_are_refused():
    """Two values give ±1 whatever they are, one gives 0: torch's group norm says nothing."""
    pairs = F.group_norm(torch.randn(100, 8), 4)
    torch.testing.assert_close(pairs.abs().median(), torch.tensor(1.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(F.group_norm(torch.randn(100, 8), 8), torch.zeros(100, 8))


def test_the_sentences():
    with pytest.raises(InvalidInput) as caught:
        BatchFreeNorm(64, 128)(torch.randn(32, 128))
    assert str(caught.value) == snapshot(
        "64 groups of 128 channels leave 2 values per group for input (32, 128); below 4 a group's output collapses, "
        "so take fewer groups"
    )
    with pytest.raises(InvalidInput) as caught:
        BatchFreeNorm(3, 8)
    assert str(caught.value) == snapshot("3 groups do not divide 8 channels; these do: 1, 2, 4, 8")


@pytest.mark.parametrize("groups", [0, -1, 3, 16])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(InvalidInput, match="do not divide 8 channels"):
        BatchFreeNorm(groups, 8)


def test_the_state_is_that_of_group_norm():
    norm, torchs = with_weights(BatchFreeNorm(2, 8)), nn.GroupNorm(2, 8)
    torchs.load_state_dict(norm.state_dict(), strict=True)
    x = torch.randn(3, 8)
    assert torch.equal(torchs(x), norm(x))
    norm.load_state_dict(nn.GroupNorm(2, 8).state_dict(), strict=True)
    assert list(norm.state_dict()) == ["weight", "bias"]


def test_without_weights():
    norm = BatchFreeNorm(2, 8, affine=False, eps=1e-3)
    assert list(norm.state_dict()) == []
    x = torch.randn(3, 8)
    assert torch.equal(norm(x), F.group_norm(x, 2, eps=1e-3))


def test_training_and_evaluation_are_the_same():
    norm, x = with_weights(BatchFreeNorm(2, 8)), torch.randn(3, 8)
    assert torch.equal(norm.train()(x), norm.eval()(x))
    assert list(norm.buffers()) == []


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda norm: pickle.loads(pickle.dumps(norm))], ids=["deep", "pickle"]
)
def test_copies(copied):
    norm, x = with_weights(BatchFreeNorm(2, 8)), torch.randn(3, 8)
    other = copied(norm)
    assert type(other) is BatchFreeNorm
    assert torch.equal(other(x), norm(x))
    nn.init.zeros_(other.weight)
    assert not torch.equal(other(x), norm(x))


def test_an_empty_batch_is_passed_on():
    assert BatchFreeNorm(2, 8)(torch.empty(0, 8)).shape == (0, 8)


def test_gradients_are_right():
    norm = BatchFreeNorm(2, 8).double()
    assert torch.autograd.gradcheck(norm, torch.randn(2, 8, dtype=torch.float64, requires_grad=True))

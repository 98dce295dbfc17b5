import sys
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truenorm.errors import InvalidInput
from truenorm.stats import Moments, merge, mixture, moments

close = partial(torch.testing.assert_close, check_dtype=False)


def check(found, expected, rtol=1e-10, atol=1e-12):
    """Moments against the oracle's (mean, var, count)."""
    mean, var, count = expected
    close(found.mean, torch.as_tensor(mean), rtol=rtol, atol=atol)
    close(found.var, torch.as_tensor(var), rtol=rtol, atol=atol)
    assert found.count == count


@st.composite
def parts_of_values(draw, num_parts=None):
    """Sets of values of the same channels, of very different sizes and places."""
    seed, channels = draw(st.integers(0, 2**31)), draw(st.integers(1, 5))
    rng = np.random.default_rng(seed)
    sizes = [draw(st.integers(1, 40)) for _ in range(num_parts or draw(st.integers(1, 6)))]
    scale, offset = draw(st.sampled_from([1e-3, 1.0, 1e3])), draw(st.sampled_from([0.0, 1.0, 1e4]))
    return [rng.normal(rng.normal(), 1, (n, channels)) * scale + offset * scale for n in sizes]


@pytest.mark.parametrize("shape", [(7, 3), (7, 1), (4, 3, 5), (2, 3, 4, 5), (2, 2, 3, 2, 3), (1, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_moments_of_a_batch(shape, dtype):
    x = (torch.randn(shape) * 3 + 2).to(dtype)
    found = moments(x)
    check(found, oracle.moments(x.double()))
    assert found.mean.dtype == found.var.dtype == torch.float64


def test_moments_of_other_layouts():
    x = torch.randn(4, 6, 5, 3)
    check(moments(x.contiguous(memory_format=torch.channels_last)), oracle.moments(x))
    check(moments(x[:, ::2]), oracle.moments(x[:, ::2]))


def test_moments_carry_no_gradient():
    assert not moments(torch.randn(4, 2, requires_grad=True)).mean.requires_grad


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 0)])
def test_values_without_channels_or_samples_are_refused(shape):
    with pytest.raises(InvalidInput, match=r"need values of shape \(N, C, \.\.\.\), got shape"):
        moments(torch.zeros(shape))


def test_a_large_mean_cancels_no_digits():
    x = torch.randn(4096, 3, dtype=torch.float64) * 0.01 + 100
    check(moments(x), oracle.moments(x))
    together = merge(moments(part) for part in x.split(64))
    check(together, oracle.moments(x), rtol=1e-9)
    # What E[x²] − E[x]² would give in float32: nothing right.
    y = x.float()
    naive = (y.square().mean(0) - y.mean(0).square()).double()
    assert ((naive / together.var - 1).abs() > 0.1).any()


def test_float32_inputs_at_mean_over_std_of_ten_thousand():
    x = (torch.randn(6400, 2) + 1e4).float()
    together = merge(moments(part) for part in x.split(100))
    check(together, oracle.moments(x.double()), rtol=1e-9)


@settings(deadline=None)
@given(parts_of_values())
def test_merging_parts_gives_the_moments_of_the_whole(parts):
    whole = oracle.moments(np.concatenate(parts))
    check(merge(moments(torch.from_numpy(part)) for part in parts), whole, rtol=1e-8)


@settings(deadline=None)
@given(parts_of_values(3))
def test_merge_is_associative_up_to_rounding(parts):
    a, b, c = (moments(torch.from_numpy(part)) for part in parts)
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    check(left, (right.mean, right.var, right.count), rtol=1e-8)


@settings(deadline=None)
@given(parts_of_values(), st.randoms(use_true_random=False))
def test_merge_does_not_depend_on_order_up_to_rounding(parts, random):
    found = [moments(torch.from_numpy(part)) for part in parts]
    expected = merge(found)
    random.shuffle(found)
    check(merge(found), (expected.mean, expected.var, expected.count), rtol=1e-8)


def test_merge_in_the_same_order_gives_the_same_bits():
    parts = [moments(torch.randn(n, 4)) for n in (3, 9, 27)]
    assert merge(parts) == merge(parts)


def test_parts_weigh_by_their_values_not_one_each():
    small, large = moments(torch.full((1, 1), 10.0)), moments(torch.zeros(9, 1))
    check(small.merge(large), (np.array([1.0]), np.array([9.0]), 10))


def test_an_empty_part_changes_nothing():
    part = Moments(torch.tensor([2.0]), torch.tensor([3.0]), 5)
    nothing = Moments(torch.zeros(1), torch.zeros(1), 0)
    check(part.merge(nothing), ([2.0], [3.0], 5))
    check(nothing.merge(part), ([2.0], [3.0], 5))
    assert nothing.merge(nothing).count == 0


def test_design_effects_merge_by_count_or_not_at_all():
    def part(n, effect):
        return Moments(torch.zeros(1), torch.ones(1), n, effect)

    assert part(1, 4.0).merge(part(3, 8.0)).design_effect == 7.0
    assert part(1, 4.0).merge(part(3, None)).design_effect is None


def test_what_cannot_be_merged_is_refused():
    two, three = moments(torch.randn(4, 2)), moments(torch.randn(4, 3))
    with pytest.raises(InvalidInput, match="nothing to merge"):
        merge([])
    with pytest.raises(InvalidInput, match="2 and 3 channels; are these the same layer"):
        merge([two, three])
    with pytest.raises(InvalidInput, match="without a count cannot be merged"):
        merge([two, Moments(two.mean, two.var)])


@pytest.mark.parametrize(("mean", "var"), [((2,), (3,)), ((), ()), ((1, 2), (1, 2))])
def test_moments_are_two_vectors_of_one_length(mean, var):
    with pytest.raises(InvalidInput, match="both need one number per channel"):
        Moments(torch.zeros(mean), torch.zeros(var))


def test_moments_are_equal_by_value_and_frozen():
    a = Moments(torch.ones(2), torch.ones(2), 4)
    assert a == Moments(torch.ones(2), torch.ones(2), 4)
    assert a != Moments(torch.ones(2), torch.ones(2), 5)
    assert a != Moments(torch.ones(2), torch.full((2,), 1.0 + 1e-6), 4)
    assert a != Moments(torch.ones(3), torch.ones(3), 4)
    assert a != "moments"
    with pytest.raises(FrozenInstanceError):
        a.count = 3


def test_std_of_a_negative_variance_is_zero():
    assert torch.equal(Moments(torch.zeros(2), torch.tensor([4.0, -1.0])).std, torch.tensor([2.0, 0.0]))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 7), st.sampled_from([0.0, 1.0, 1e4]))
def test_mixture(seed, num_rules, num_batches, offset):
    rng = np.random.default_rng(seed)
    channels = 3
    all_weights = rng.dirichlet(np.ones(num_batches + 1), num_rules)
    keep, weights = all_weights[:, 0], all_weights[:, 1:]
    mean, batch_means = rng.normal(offset, 1, (num_rules, channels)), rng.normal(offset, 1, (num_batches, channels))
    var, batch_vars = rng.random((num_rules, channels)), rng.random((num_batches, channels))
    keep_t, mean_t, var_t, weight_t, bm_t, bv_t = map(
        torch.from_numpy, (keep, mean, var, weights, batch_means, batch_vars)
    )
    found = mixture(keep_t, mean_t, var_t, weight_KT=weight_t, batch_mean_TC=bm_t, batch_var_TC=bv_t)
    expected = oracle.mixture(keep, mean, var, weights, batch_means, batch_vars)
    close(found[0], torch.from_numpy(expected[0]), rtol=1e-9, atol=1e-9)
    close(found[1], torch.from_numpy(expected[1]), rtol=1e-8, atol=1e-9)


def test_mixture_cancels_no_digits_far_from_zero():
    batch_means = torch.tensor([[1e6], [1e6 + 1e-3]], dtype=torch.float64)
    tiny = torch.full((2, 1), 1e-8, dtype=torch.float64)
    _, var = mixture(
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, 1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        weight_KT=torch.full((1, 2), 0.5, dtype=torch.float64),
        batch_mean_TC=batch_means,
        batch_var_TC=tiny,
    )
    close(var, torch.tensor([[1e-8 + 2.5e-7]]), rtol=1e-5, atol=0)


def test_a_planted_bug_is_found(monkeypatch):
    """Merging that forgets the variance between the parts must not pass for right."""

    def within_only(a, b):
        share = b.count / (a.count + b.count)
        return Moments(a.mean + (b.mean - a.mean) * share, a.var * (1 - share) + b.var * share, a.count + b.count)

    monkeypatch.setattr(sys.modules["truenorm.stats.moments"], "_merge_two", within_only)
    with pytest.raises(AssertionError, match="not close"):
        test_parts_weigh_by_their_values_not_one_each()

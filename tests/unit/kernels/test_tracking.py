"""What the layers store, against the oracle in float64."""

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import truenorm as tn
from truenorm.kernels import BACKENDS, Affine, Running, track


def batches(seed, sizes, *, dtype=torch.float32, offset=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, 3, 2, 2, generator=generator, dtype=dtype) * (1 + i) + offset * i for i, n in enumerate(sizes)
    ]


def after(norm, stream):
    for x in stream:
        norm(x)
    return norm.running_mean.double(), norm.running_var.double()


def close(found, expected, rtol=1e-6):
    for got, true in zip(found, expected, strict=True):
        assert_close(got, torch.as_tensor(true), rtol=rtol, atol=1e-6)


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)
seeds = st.integers(0, 10_000)
momenta = st.floats(1e-3, 1.0)


@settings(deadline=None)
@given(seeds, st.integers(1, 9), momenta)
def test_after_one_batch_the_statistics_are_that_batchs(seed, size, momentum):
    (x,) = batches(seed, [size])
    close(after(tn.nn.BatchNorm2d(3, momentum=momentum), [x]), oracle.moments(x)[:2])


@settings(deadline=None)
@given(seeds, st.integers(2, 9), st.integers(1, 12))
def test_momentum_none_pools_all_batches(seed, size, k):
    """Chan in float64 over all values of k batches of one size, to 1e-6."""
    stream = batches(seed, [size] * k, dtype=torch.float64)
    norm = tn.nn.BatchNorm2d(3, momentum=None, dtype=torch.float64)
    together = tn.stats.merge([tn.stats.moments(x) for x in stream])
    found = after(norm, stream)
    assert_close(found[0], together.mean, rtol=1e-6, atol=1e-9)
    assert_close(found[1], together.var, rtol=1e-6, atol=0)


@settings(deadline=None)
@given(seeds, st.integers(2, 9), st.integers(1, 12))
def test_momentum_none_pools_all_batches_in_float32(seed, size, k):
    stream = batches(seed, [size] * k)
    together = tn.stats.merge([tn.stats.moments(x) for x in stream])
    close(after(tn.nn.BatchNorm2d(3, momentum=None), stream), (together.mean, together.var), rtol=5e-6)


@settings(deadline=None)
@given(seeds, st.integers(2, 9), st.permutations(range(6)))
def test_the_order_of_batches_does_not_matter_to_an_average(seed, size, order):
    stream = batches(seed, [size] * 6, dtype=torch.float64)
    one = after(tn.nn.BatchNorm2d(3, momentum=None, dtype=torch.float64), stream)
    other = after(tn.nn.BatchNorm2d(3, momentum=None, dtype=torch.float64), [stream[i] for i in order])
    close(one, other, rtol=1e-10)


@settings(deadline=None)
@given(seeds, sizes, momenta)
def test_any_momentum_follows_the_recursion(seed, sizes, momentum):
    stream = batches(seed, sizes)
    close(
        after(tn.nn.BatchNorm2d(3, momentum=momentum), stream),
        oracle.pooled(oracle.stream_of(stream), momentum),
        rtol=1e-5,
    )


@settings(deadline=None)
@given(seeds, sizes, momenta)
def test_torchs_tracking_is_torchs(seed, sizes, momentum):
    stream = batches(seed, sizes)
    ours, theirs = tn.nn.BatchNorm2d(3, momentum=momentum, tracking="torch"), nn.BatchNorm2d(3, momentum=momentum)
    for one, other in zip(after(ours, stream), after(theirs, stream), strict=True):
        assert_close(one, other, rtol=0, atol=0)


def test_it_is_the_watchs_pooled_rule():
    norm = tn.nn.BatchNorm2d(3)
    twin = nn.BatchNorm2d(3)
    stream = batches(0, [4] * 40)
    with tn.watch(twin, [tn.rules.Pooled((0.1,))]) as watched:
        after(twin, stream)
    close(after(norm, stream), (watched["pooled-0.1"][""].mean, watched["pooled-0.1"][""].var), rtol=1e-5)


def test_a_mean_far_from_zero_costs_no_digits():
    stream = [torch.randn(64, 3, dtype=torch.float64) * 0.1 + 3000 for _ in range(20)]
    norm = tn.nn.BatchNorm1d(3, momentum=None)
    after(norm, [x.float() for x in stream])
    truth = torch.cat([x.float().double() for x in stream]).var(0, correction=0)
    assert_close(norm.running_var.double(), truth, rtol=0.01, atol=0)


def test_momentum_nought_keeps_statistics_and_count():
    norm = tn.nn.BatchNorm2d(3, momentum=0.0)
    after(norm, batches(0, [4] * 3))
    assert_close(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0
    norm.momentum = 0.1  # nothing of 0 and 1 is left behind when it starts
    (x,) = batches(1, [4])
    close(after(norm, [x]), oracle.moments(x)[:2])


def test_a_schedule_of_momenta_is_followed_step_by_step():
    stream = batches(0, [4] * 8)
    norm = tn.nn.BatchNorm2d(3)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for t, x in enumerate(stream, 1):
        norm.momentum = 1 / (t + 1)
        norm(x)
        m, v, _ = map(torch.as_tensor, oracle.moments(x))
        a = 1 / t
        mean, var = mean + a * (m - mean), (1 - a) * var + a * v + a * (1 - a) * (m - mean) ** 2
    close((norm.running_mean.double(), norm.running_var.double()), (mean, var), rtol=1e-5)


def test_long_trained_statistics_move_by_the_momentum():
    norm = tn.nn.BatchNorm1d(1, momentum=0.25)
    norm.num_batches_tracked.fill_(1000)
    norm(torch.tensor([[3.0], [5.0]]))
    assert (norm.running_mean.item(), norm.running_var.item()) == (1.0, 0.75 + 0.25 + 0.25 * 0.75 * 16)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("tracking", ["pooled", "torch"])
def test_without_a_count_a_momentum_works_and_an_average_does_nothing(momentum, tracking):
    mean, var = torch.zeros(1), torch.ones(1)
    batch = {"mean": torch.tensor([1.0]), "var": torch.tensor([1.0])}
    track(Running(mean, var, None, momentum, tracking), **batch, count=2)
    assert_close(mean, torch.tensor([momentum or 0.0]))


def test_without_gradient_it_updates_as_torchs_does():
    norm = tn.nn.BatchNorm2d(3)
    with torch.no_grad():
        norm(batches(0, [4])[0])
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_buffers_hold_what_float32_computed(dtype):
    """A mean that jumps by 300 has a square that half precision does not."""
    mean, var, count = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype), torch.tensor(100)
    batch = {"mean": torch.tensor([300.0], dtype=dtype), "var": torch.tensor([1.0], dtype=dtype)}
    track(Running(mean, var, count, 0.1, "pooled"), **batch, count=8)
    assert_close(var.float(), torch.tensor([0.09 * 300**2 + 1]), rtol=0.01, atol=0)


@pytest.mark.parametrize("backend", ["reference", "aten"])
@pytest.mark.parametrize("tracking", ["pooled", "torch"])
@pytest.mark.parametrize("momentum", [0.3, None, 0.0])
def test_a_backend_updates_what_it_is_given(backend, tracking, momentum):
    """Triton's: see triton/test_statistics.py."""
    mine, true = (
        Running(torch.zeros(3), torch.ones(3), torch.tensor(0), momentum=momentum, tracking=tracking) for _ in range(2)
    )
    for x in batches(0, [4, 5, 2]):
        y, *_ = BACKENDS[backend].batch_norm(x, Affine(), running=mine)
        expected, mean, var = BACKENDS["aten"].batch_norm(x, Affine())
        track(true, mean, var, count=x.numel() // 3)
        assert_close(y, expected)
    close(mine[:2], true[:2], rtol=1e-5)
    assert mine.num_batches == true.num_batches


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_a_backend_updates_nothing_where_no_statistics_are_kept(backend):
    none = Running(None, None, torch.tensor(0), momentum=0.1, tracking="pooled")
    (x,) = batches(0, [4])
    assert_close(
        BACKENDS[backend].batch_norm(x, Affine(), running=none)[0], BACKENDS["aten"].batch_norm(x, Affine())[0]
    )
    assert none.num_batches == 0


def test_a_planted_bug_would_be_seen():
    """Torch's recursion is not ours: these tests can tell them apart."""
    stream = batches(0, [2] * 10)
    with pytest.raises(AssertionError):
        close(after(nn.BatchNorm2d(3), stream), oracle.pooled(oracle.stream_of(stream), 0.1), rtol=1e-3)

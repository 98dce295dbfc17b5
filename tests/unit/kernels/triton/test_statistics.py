"""Moments, running statistics and their digits, against float64."""

import pytest
import torch
from contract.backends import DEVICE, channels_last, needs_triton, random
from torch.testing import assert_close

from truenorm.kernels import Affine, Epilogue, Running, track
from truenorm.kernels.registry import BACKENDS

TRITON, ATEN, REFERENCE = (BACKENDS[name] for name in ("triton", "aten", "reference"))
pytestmark = [needs_triton, pytest.mark.slow]  # interpreted kernels


def fresh(dtype=torch.float32, count=0):
    mean = torch.zeros(3, dtype=dtype, device=DEVICE)
    return mean, torch.ones_like(mean), torch.tensor(count, device=DEVICE)


def tracked(x, buffers, *, momentum, tracking):
    return TRITON.batch_norm(x, Affine(), running=Running(*buffers, momentum, tracking))[0]


@pytest.mark.parametrize("tracking", ["pooled", "torch"])
@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0, 0.0, None])
@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_running_statistics_are_those_of_the_layers_rule(tracking, momentum, counting, dtype):
    (*running, count), (*true, true_count) = fresh(dtype), fresh(torch.float64)
    for step in range(4):
        x = random(6, 3, 5, offset=float(step))
        y = tracked(x, (*running, count if counting else None), momentum=momentum, tracking=tracking)
        var, mean = torch.var_mean(x.double(), (0, 2), correction=0)
        track(Running(*true, true_count if counting else None, momentum, tracking), mean, var, count=30)
        expected = REFERENCE.batch_norm(x.double(), Affine())[0]
        assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    tolerance = 1e-2 if dtype == torch.float16 else 1e-6
    for got, expected in zip(running, true, strict=True):
        assert got.dtype == dtype
        assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert count == true_count


@pytest.mark.parametrize("tracking", ["pooled", "torch"])
def test_momentum_on_the_device_may_change_between_replays(tracking):
    momentum = torch.zeros((), device=DEVICE)
    buffers, fixed = fresh(), fresh()
    for value in (0.5, 0.25, 0.0):
        momentum.fill_(value)
        x = random(6, 3, 5)
        tracked(x, buffers, momentum=momentum, tracking=tracking)
        tracked(x, fixed, momentum=value, tracking=tracking)
    assert_close(buffers[:2], fixed[:2], rtol=0, atol=0)


def test_a_batch_in_evaluation_mode_leaves_statistics_alone():
    mean, var, _ = fresh()
    TRITON.normalize(random(6, 3), mean, var, Affine())
    assert mean.tolist() == [0] * 3 and var.tolist() == [1] * 3


@pytest.mark.parametrize("empty", [0, 1, 3])
def test_moments_of_processes_enter_finalize(empty):
    """Also where one has no samples, and what stands for it is no number."""
    from truenorm.kernels.triton import stages

    parts = [random(n, 3, 4, offset=1e3) for n in (5, 2, 9)]
    gathered, counts = [], []
    for x in parts:
        mean, mean_lo, var = stages.combined(*stages.measured(x), 3)
        n = x.numel() // 3
        gathered.append(torch.stack([mean, mean_lo, var * n]))
        counts.append(n)
    gathered.insert(empty, torch.full_like(gathered[0], torch.nan))
    counts.insert(empty, 0)
    found = stages.combined(torch.stack(gathered), torch.tensor(counts, dtype=torch.float64, device=DEVICE), 3)
    true_var, true_mean = torch.var_mean(torch.cat(parts).double(), (0, 2), correction=0)
    assert_close(found[0].double() + found[1].double(), true_mean, rtol=1e-9, atol=0)
    assert_close(found[2].double(), true_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("far", [1e3, 1e4])
@pytest.mark.parametrize("layout", [lambda x: x, channels_last], ids=["contiguous", "channels last"])
def test_no_digits_are_lost_far_from_zero(far, layout):
    """|mean| ≫ σ: errors stay those of rounding once, in parts of each result's usual size."""
    x, dy = layout(random(64, 4, 7, 7, offset=far)), random(64, 4, 7, 7)
    weight, bias = torch.rand(4, device=DEVICE) + 0.5, torch.randn(4, device=DEVICE)
    results = {}
    for backend, dtype in ((TRITON, torch.float32), (ATEN, torch.float32), (REFERENCE, torch.float64)):
        mine = [value.detach().to(dtype).requires_grad_() for value in (x, weight, bias)]
        y, _, var = backend.batch_norm(mine[0], Affine(*mine[1:]))
        y.backward(dy.to(dtype))
        results[backend] = [y.detach(), var, *(value.grad for value in mine)]

    def errors(backend):
        pairs = zip(results[backend], results[REFERENCE], strict=True)
        return [((got.double() - true).abs().max() / true.square().mean().sqrt()).item() for got, true in pairs]

    ours, theirs = errors(TRITON), errors(ATEN)
    assert max(ours) < 5e-6
    for got, expected in zip(ours, theirs, strict=True):
        assert got < max(expected, 5e-6)
    if DEVICE == "cpu":  # on a GPU benchmarks/gpu.py compares
        assert ours[0] < theirs[0] / 50


def test_an_outlier_at_the_beginning_costs_no_digits():
    """Where a pivot would be taken from one value."""
    x = random(64, 4, 7, 7, offset=1e4)
    x[0, :, 0, 0] += 1000
    _, var = TRITON.moments(x)
    assert_close(var.double(), x.double().var((0, 2, 3), correction=0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("shape", [(70, 130), (40, 3, 7, 7), (5, 3, 16, 16)])
def test_the_same_bits_each_time(shape):
    x, dy = random(*shape), random(*shape)

    def step():
        mine = x.clone().requires_grad_()
        y, mean, var = TRITON.batch_norm(mine, Affine(), Epilogue(dy, "relu"))
        y.backward(dy)
        return y, mean, var, mine.grad

    for first, second in zip(step(), step(), strict=True):
        assert torch.equal(first, second)


def test_a_sample_does_not_know_who_stands_beside_it():
    """At inference."""
    x = random(40, 3, 7, 7)
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    given = (mean, var, Affine(), Epilogue(activation="relu"))
    together = TRITON.normalize(x, *given)
    alone = torch.cat([TRITON.normalize(one, *given) for one in x.split(1)])
    assert torch.equal(together, alone)


def test_running_statistics_that_are_not_side_by_side_are_written_where_they_are():
    rows = torch.zeros(3, 2, device=DEVICE)
    mean, var = rows[:, 0], rows[:, 1].fill_(1.0)
    x = random(6, 3, 5, offset=2.0)
    tracked(x, (mean, var, None), momentum=1.0, tracking="pooled")
    true_var, true_mean = torch.var_mean(x, (0, 2), correction=0)
    assert_close(rows, torch.stack([true_mean, true_var], 1), rtol=1e-5, atol=1e-6)

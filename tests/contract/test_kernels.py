"""Every backend through the same cases, against float64."""

import itertools

import pytest
import torch
from contract.backends import DEVICE, REFERENCE, TOLERANCE, backends, exactly, leaves
from torch.testing import assert_close

from truenorm import kernels
from truenorm.kernels import Affine, Epilogue
from truenorm.kernels.registry import BACKENDS, backend_for

SHAPES = {"vectors": (7, 5), "images": (4, 5, 3, 6), "volumes": (3, 5, 2, 2, 3), "pair": (2, 5)}

cases = pytest.mark.parametrize(
    ("shape", "affine", "residual", "activation"),
    list(itertools.product(SHAPES, (True, False), (True, False), ("identity", "relu"))),
)


def arguments(shape, dtype, affine, residual, *, offset=0.0, memory_format=None):
    torch.manual_seed(0)
    size = SHAPES[shape]
    x = (torch.randn(size, dtype=torch.float64) + offset).to(DEVICE, dtype)
    if memory_format is not None and x.ndim == 4:
        x = x.contiguous(memory_format=memory_format)
    weight = (torch.rand(5, dtype=torch.float64) + 0.5).to(DEVICE, dtype) if affine else None
    bias = torch.randn(5, dtype=torch.float64).to(DEVICE, dtype) if affine else None
    return x, weight, bias, torch.randn(size, dtype=torch.float64).to(DEVICE, dtype) if residual else None


@backends
@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("memory_format", [None, torch.channels_last])
def test_batch_norm_and_its_gradients(backend, shape, affine, residual, activation, dtype, memory_format):
    given = arguments(shape, dtype, affine, residual, memory_format=memory_format)
    mine, true = leaves(given), leaves(exactly(given))
    results = []
    for chosen, (x, weight, bias, added) in ((backend, mine), (REFERENCE, true)):
        y, mean, var = chosen.batch_norm(x, Affine(weight, bias), Epilogue(added, activation))
        generator = torch.Generator().manual_seed(1)
        (y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)).sum().backward()
        assert not mean.requires_grad and not var.requires_grad
        results.append((y, mean, var))
    (y, mean, var), (true_y, true_mean, true_var) = results
    assert y.dtype == dtype and y.shape == given[0].shape
    for got, expected in ((y, true_y), (mean, true_mean), (var, true_var)):
        assert_close(got.double(), expected, **TOLERANCE[dtype])
    for got, expected in zip(mine, true, strict=True):
        if got is not None:
            assert_close(got.grad.double(), expected.grad, **TOLERANCE[dtype])


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", ["vectors", "images"])
@pytest.mark.parametrize("affine", [True, False])
def test_half_types(backend, dtype, shape, affine):
    given = arguments(shape, dtype, affine, False)
    x, weight, bias, _ = given
    exact_x, exact_weight, exact_bias, _ = exactly(given)
    y, mean, var = backend.batch_norm(x, Affine(weight, bias))
    true = REFERENCE.batch_norm(exact_x, Affine(exact_weight, exact_bias))
    for got, expected in zip((y, mean, var), true, strict=True):
        assert_close(got.double(), expected, **TOLERANCE[dtype])


@backends
@cases
def test_normalize(backend, shape, affine, residual, activation):
    x, weight, bias, added = arguments(shape, torch.float32, affine, residual)
    mean, var = torch.randn(5, device=DEVICE), torch.rand(5, device=DEVICE) + 0.1
    y = backend.normalize(x, mean, var, Affine(weight, bias, 1e-3), Epilogue(added, activation))
    x, mean, var, weight, bias, added = exactly((x, mean, var, weight, bias, added))
    true = REFERENCE.normalize(x, mean, var, Affine(weight, bias, 1e-3), Epilogue(added, activation))
    assert_close(y.double(), true, **TOLERANCE[torch.float32])


@backends
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_lose_no_digits_far_from_zero(backend, offset):
    x, *_ = arguments("images", torch.float32, False, False, offset=offset)
    true_var, true_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    for mean, var in (
        backend.moments(x),
        backend.batch_norm(x, Affine())[1:],
    ):
        assert_close(mean.double(), true_mean, rtol=1e-6, atol=1e-6)
        assert_close(var.double(), true_var, rtol=1e-3 if offset else 1e-5, atol=0)


@backends
def test_a_variance_far_below_eps_is_not_lost(backend):
    """Taken back from 1/√(v+ε) it would be noise."""
    x = torch.randn(50, 3, dtype=torch.float64, device=DEVICE).mul(1e-7).float()
    found = backend.batch_norm(x, Affine())[2]
    assert_close(found.double(), x.double().var(0, correction=0), rtol=1e-5, atol=0)


def test_the_operations_go_to_aten_on_a_cpu():
    x = torch.randn(4, 3)
    assert backend_for(x) is BACKENDS["aten"]
    assert_close(kernels.moments(x), BACKENDS["aten"].moments(x))


def test_an_empty_batch_has_moments_of_nought():
    y, mean, var = kernels.batch_norm(torch.empty(0, 3, 2, 2), Affine())
    assert y.shape == (0, 3, 2, 2)
    assert_close((mean, var), (torch.zeros(3), torch.zeros(3)))


def test_a_wrong_backend_would_be_seen():
    """The comparison fails where a backend forgets ε."""
    x = torch.randn(4, 5) * 1e-3
    exact = REFERENCE.batch_norm(x.double(), Affine())[0]
    wrong = REFERENCE.batch_norm(x, Affine(eps=0.0))[0]
    with pytest.raises(AssertionError):
        assert_close(wrong.double(), exact, **TOLERANCE[torch.float32])

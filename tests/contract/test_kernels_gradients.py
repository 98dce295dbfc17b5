"""Gradients of every backend are those of its own output, once and twice."""

import pytest
import torch
from contract.backends import DEVICE, REFERENCE, backends, channels_last, leaves
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from truenorm.kernels import Affine, Epilogue


def given(shape=(3, 2, 2)):
    sizes = (shape, (shape[1],), (shape[1],), shape)
    return [torch.randn(*size, dtype=torch.float64, device=DEVICE).requires_grad_() for size in sizes]


def functions(backend, activation):
    def by_the_batch(x, weight, bias, residual=None):
        return backend.batch_norm(x, Affine(weight, bias, 1e-2), Epilogue(residual, activation))[0]

    def by_what_is_given(x, weight, bias, residual=None):
        mean = torch.tensor([0.1, -0.2], dtype=torch.float64, device=DEVICE)
        return backend.normalize(x, mean, mean + 1, Affine(weight, bias, 1e-2), Epilogue(residual, activation))

    return by_the_batch, by_what_is_given


@backends
@pytest.mark.parametrize("which", [0, 1], ids=["batch", "given"])
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("with_residual", [True, False])
def test_gradients_and_theirs(backend, which, activation, with_residual):
    function, values = functions(backend, activation)[which], given()
    values = values if with_residual else values[:3]
    assert gradcheck(function, values, fast_mode=True)
    assert gradgradcheck(function, values, fast_mode=True)


@backends
def test_gradients_channels_last(backend):
    values = [channels_last(value).detach().requires_grad_() if value.ndim > 1 else value for value in given((2, 2, 3))]
    assert gradcheck(functions(backend, "relu")[0], values)


@backends
@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (3,), (1, 2), (0, 3)])
def test_only_the_gradients_that_are_asked_for(backend, asked):
    for function, true in zip(functions(backend, "relu"), functions(REFERENCE, "relu"), strict=True):
        values = [value.detach() for value in given()]
        results = []
        for compute in (function, true):
            mine = [value.clone().requires_grad_() if number in asked else value for number, value in enumerate(values)]
            compute(*mine).sum().backward()
            results.append([value.grad for value in mine])
        for number, (got, expected) in enumerate(zip(*results, strict=True)):
            assert (got is not None) == (number in asked)
            if got is not None:
                assert_close(got, expected)


@backends
def test_without_gradient_nothing_is_kept(backend):
    values = given()
    for function in functions(backend, "relu"):
        with torch.no_grad():
            assert not function(*values).requires_grad
        assert not function(*(value.detach() for value in values)).requires_grad


@backends
def test_moments_have_no_gradient(backend):
    x = given()[0]
    y, mean, var = backend.batch_norm(x, Affine(eps=1e-2))
    assert y.requires_grad and not mean.requires_grad and not var.requires_grad
    assert not any(value.requires_grad for value in backend.moments(x))


@backends
def test_a_penalty_on_the_gradient(backend):
    """As in WGAN-GP: backward through a backward, beside an ordinary one."""
    results = []
    for chosen in (backend, REFERENCE):
        torch.manual_seed(0)
        x, weight, bias, residual = leaves(given())
        y = functions(chosen, "relu")[0](x, weight, bias, residual)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (y.sum() + gradient.square().sum()).backward()
        results.append([x.grad, weight.grad, bias.grad, residual.grad])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@backends
@pytest.mark.parametrize("which", [0, 1], ids=["batch", "given"])
@pytest.mark.parametrize("layout", [lambda x: x, channels_last], ids=["contiguous", "channels last"])
def test_saved_tensors_may_come_back_with_other_strides(backend, which, layout):
    """As from `save_on_cpu(pin_memory=True)`, which keeps sizes alone."""
    results = []
    for hooks in (False, True):
        torch.manual_seed(0)
        x, weight, bias, residual = given((40, 2, 3, 3))
        x = layout(x).detach().requires_grad_()
        other = (
            lambda saved: saved,
            lambda saved: (
                channels_last(saved) if saved.ndim > 2 and layout is not channels_last else saved.contiguous()
            ),
        )
        with torch.autograd.graph.saved_tensors_hooks(*other if hooks else (lambda saved: saved,) * 2):
            y = functions(backend, "relu")[which](x, weight, bias, residual)
        y.square().sum().backward()
        results.append([value.grad for value in (x, weight, bias, residual)])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)

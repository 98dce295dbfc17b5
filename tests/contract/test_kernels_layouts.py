"""Every backend takes every shape, every layout in memory and every activation, and gives the same numbers."""

import pytest
import torch
from contract.backends import DEVICE, REFERENCE, TOLERANCE, backends, channels_last, exactly, random, with_gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from truenorm.kernels import Affine, Epilogue

ODD = {
    "one channel": (4, 1, 5, 3),
    "three channels": (5, 3, 7, 7),
    "many samples": (40, 19, 7, 7),
    "130 channels": (33, 130, 2, 2),
    "one row": (1, 19, 7, 7),
    "one position": (6, 19, 1, 1),
    "long planes": (2, 3, 9, 16),
    "signals": (3, 8, 70),
    "volumes": (2, 3, 3, 5, 2),
    "vectors": (70, 130),
}
ACTIVATIONS = ["identity", "relu", "leaky_relu", "silu", "gelu", "hardswish"]


def expanded(x):
    """Samples that are all the same memory."""
    return x[:1].expand(x.shape)


def sliced(x):
    """Every second of twice as many values."""
    return torch.stack([x, -x], dim=-1).flatten(-2)[..., ::2]


def overlapping(x):
    """Each sample begins one element after the one before."""
    flat = x.reshape(-1)
    sizes, strides = x.shape, list(x[0].contiguous().stride())
    return torch.as_strided(flat, sizes, [1, *strides]) if flat.numel() > sum(sizes) else x


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": channels_last,
    "sliced": sliced,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "expanded": expanded,
    "overlapping": overlapping,
}


def parameters(channels):
    weight, bias = torch.rand(channels, device=DEVICE) + 0.5, torch.randn(channels, device=DEVICE)
    weight[0] *= -1
    return weight, bias


def assert_agrees(function, x, residual, activation, dy):
    """function(backend, x, weight, bias, residual, activation): outputs and gradients as the reference has them."""

    def check(backend):
        given = (x, *parameters(x.shape[1]), residual)
        y, gradients = with_gradients(lambda *mine: function(backend, *mine, activation), given, dy)
        true_y, true = with_gradients(lambda *mine: function(REFERENCE, *mine, activation), exactly(given), dy.double())
        assert_close(y.double(), true_y, **TOLERANCE[torch.float32])
        for got, expected in zip(gradients, true, strict=True):
            if expected is not None:
                assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)

    return check


def by_the_batch(backend, x, weight, bias, residual, activation):
    return backend.batch_norm(x, Affine(weight, bias, 1e-2), Epilogue(residual, activation))[0]


def by_what_is_given(backend, x, weight, bias, residual, activation):
    mean = torch.linspace(-1, 1, x.shape[1], device=DEVICE).to(x.dtype)
    return backend.normalize(x, mean, mean.abs() + 0.5, Affine(weight, bias, 1e-2), Epilogue(residual, activation))


DENSE = ("contiguous", "channels last")
FEW = ("three channels", "signals", "vectors")


@backends
@pytest.mark.parametrize(
    ("shape", "layout"), [(shape, layout) for shape in ODD for layout in LAYOUTS if layout in DENSE or shape in FEW]
)
@pytest.mark.parametrize("function", [by_the_batch, by_what_is_given])
def test_odd_shapes_in_odd_layouts(backend, function, shape, layout):
    shape = ODD[shape]
    x, residual, dy = LAYOUTS[layout](random(*shape)), random(*shape), random(*shape)
    assert_agrees(function, x, residual, "relu", dy)(backend)


@backends
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("function", [by_the_batch, by_what_is_given])
def test_every_activation(backend, function, activation, with_residual):
    x, dy = 2 * random(6, 5, 4), random(6, 5, 4)
    assert_agrees(function, x, random(6, 5, 4) if with_residual else None, activation, dy)(backend)


@backends
@pytest.mark.parametrize("function", [by_the_batch, by_what_is_given])
@pytest.mark.parametrize("dy_layout", ["channels last", "sliced", "expanded", "transposed"])
def test_a_gradient_in_another_layout(backend, function, dy_layout):
    shape = (4, 19, 3, 3)
    dy = LAYOUTS[dy_layout](random(*shape))
    assert_agrees(function, random(*shape), random(*shape), "relu", dy)(backend)


@backends
def test_the_gradient_of_a_mean_has_no_strides(backend):
    x = random(6, 5, 4).requires_grad_()
    y, *_ = backend.batch_norm(x, Affine(), Epilogue(activation="relu"))
    y.mean().backward()
    true = x.detach().double().requires_grad_()
    REFERENCE.batch_norm(true, Affine(), Epilogue(activation="relu"))[0].mean().backward()
    assert_close(x.grad.double(), true.grad, rtol=1e-4, atol=1e-7)


@backends
@pytest.mark.parametrize("shape", [(4, 19, 3, 3), (40, 3, 7, 7), (2, 130)])
def test_outputs_are_laid_out_as_the_input(backend, shape):
    for x in (random(*shape), channels_last(random(*shape))):
        y, *_ = backend.batch_norm(x, Affine(), Epilogue(random(*shape), "relu"))
        assert y.stride() == x.stride()


@backends
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_has_no_variance(backend, shape):
    if backend is REFERENCE:
        pytest.skip("the reference computes what it is given")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        backend.batch_norm(random(*shape), Affine())


@backends
def test_a_residual_that_is_broadcast_or_wider(backend):
    x, row = random(4, 5, 3), random(1, 5, 1)
    for residual in (row, random(4, 5, 3).double()):
        y, *_ = backend.batch_norm(x, Affine(), Epilogue(residual, "relu"))
        true, *_ = REFERENCE.batch_norm(x, Affine(), Epilogue(residual, "relu"))
        assert y.dtype == true.dtype
        assert_close(y, true, rtol=1e-4, atol=1e-5)


@backends
def test_a_channel_of_one_value_gives_beta(backend):
    x = torch.full((6, 2, 3), 7.25, device=DEVICE)
    weight, bias = parameters(2)
    y, mean, var = backend.batch_norm(x, Affine(weight, bias))
    assert_close(y, bias[:, None].expand(6, 2, 3), rtol=0, atol=1e-4)  # torch takes x γ/√ε and m γ/√ε apart
    assert mean.tolist() == [7.25, 7.25] and var.tolist() == [0, 0]


@backends
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu"])
def test_what_is_not_a_number_stays_so(backend, activation):
    x = random(6, 3, 4)
    x[2, 1, 3] = torch.nan
    y, mean, var = backend.batch_norm(x, Affine(), Epilogue(activation=activation))
    assert y[:, 1].isnan().all() and mean[1].isnan() and var[1].isnan()
    assert y[:, [0, 2]].isfinite().all()
    y = backend.normalize(x, mean * 0, var * 0 + 1, Affine(), Epilogue(x, activation))
    assert y[2, 1, 3].isnan()


@pytest.fixture
def poisoned():
    """Fresh memory holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@backends
@pytest.mark.parametrize("shape", [(5, 3, 7, 7), (40, 19, 7, 7), (3, 130), (2, 3, 9, 16)])
def test_nothing_depends_on_what_memory_held(backend, shape, poisoned):
    given = (random(*shape), *parameters(shape[1]), random(*shape))
    y, gradients = with_gradients(lambda *mine: by_the_batch(backend, *mine, "relu"), given, random(*shape))
    for value in (y, *gradients):
        assert value.isfinite().all()


@backends
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    shape=st.one_of(
        st.tuples(st.integers(2, 70), st.integers(1, 70)),
        st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(2, 40)),
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 9), st.integers(1, 9)),
    ),
    last=st.booleans(),
    offset=st.sampled_from([0.0, 10.0]),
    activation=st.sampled_from(["identity", "relu", "silu"]),
    with_residual=st.booleans(),
)
def test_any_shape(backend, shape, last, offset, activation, with_residual):
    x, dy = random(*shape, offset=offset), random(*shape)
    if last:
        x = channels_last(x)
    assert_agrees(by_the_batch, x, random(*shape) if with_residual else None, activation, dy)(backend)

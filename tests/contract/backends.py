"""What the contract suites share: the backends, the device, the oracle, and how arguments are made."""

from importlib.util import find_spec

import pytest
import torch

from truenorm.kernels.registry import BACKENDS

REFERENCE = BACKENDS["reference"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""On a CPU Triton's kernels are interpreted."""

TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 1e-2, "atol": 1e-2},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
}

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
backends = pytest.mark.parametrize(
    "backend",
    [pytest.param(made, id=name, marks=needs_triton if name == "triton" else ()) for name, made in BACKENDS.items()],
)


def random(*shape, dtype=torch.float32, offset=0.0):
    return (torch.randn(*shape, dtype=torch.float64) + offset).to(DEVICE, dtype)


def channels_last(x):
    """The same values, channels side by side in memory, for any number of dimensions."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def leaves(values):
    return [None if value is None else value.detach().clone().requires_grad_() for value in values]


def exactly(values):
    return [None if value is None else value.double() for value in values]


def with_gradients(function, given, dy):
    """function(x, weight, bias, residual) and the gradients of those that are there, for dy of the output."""
    mine = [None if value is None else value.detach().requires_grad_() for value in given]
    y = function(*mine)
    y.backward(dy.to(y.dtype))
    return y, [None if value is None else value.grad for value in mine]

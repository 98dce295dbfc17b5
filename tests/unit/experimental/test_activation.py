"""Which modules are activations that batch norm can apply itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from truenorm.experimental.fusing.activation import activation_of

FUNCTIONS = {
    "identity": lambda y: y,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.LeakyReLU(0.2), None),
        (nn.SiLU(), "silu"),
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), None),
        (nn.Hardswish(), "hardswish"),
        (nn.Identity(), "identity"),
        (nn.ReLU6(), None),
        (nn.Tanh(), None),
    ],
    ids=str,
)
def test_activations_are_known_by_class_and_parameters(module, name):
    assert activation_of(module) == name
    if name is not None:
        x = torch.randn(50)
        assert_close(module(x.clone()), FUNCTIONS[name](x), rtol=0, atol=0)

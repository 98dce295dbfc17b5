"""What may follow batch norm in the same sweep over memory: a residual added, an activation applied."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Activation = Literal["identity", "relu", "leaky_relu", "silu", "gelu", "hardswish"]
"""Applied to the output, with torch's default parameters (leaky_relu: slope 0.01; gelu: by erf)."""

_APPLIED = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


def activated(y: Tensor, residual: Tensor | None, activation: Activation) -> Tensor:
    """act(y + r), by torch.

    Example:
        >>> import torch
        >>> activated(torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0]), "relu").tolist()
        [2.0, 0.0]
    """
    if residual is not None:
        y = y + residual
    return y if activation == "identity" else _APPLIED[activation](y)

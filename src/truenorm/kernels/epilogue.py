"""What follows batch norm, by torch."""

from torch import Tensor
from torch.nn import functional as F

from truenorm.kernels.arguments import Epilogue

_APPLIED = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


def activated(y: Tensor, epilogue: Epilogue) -> Tensor:
    """act(y + r).

    Example:
        >>> import torch
        >>> activated(torch.tensor([1.0, -3.0]), Epilogue(torch.tensor([1.0, 1.0]), "relu")).tolist()
        [2.0, 0.0]
    """
    residual, activation = epilogue
    if residual is not None:
        y = y + residual
    return y if activation == "identity" else _APPLIED[activation](y)

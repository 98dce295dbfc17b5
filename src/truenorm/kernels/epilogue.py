"""What follows batch norm, by torch."""

from torch import Tensor
from torch.fx import Proxy
from torch.nn import functional as F

from truenorm.errors import UnknownName
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

    Raises:
        ValueError: r is of more than the shape of y.
        UnknownName: no such activation.

    Example:
        >>> import torch
        >>> activated(torch.tensor([1.0, -3.0]), Epilogue(torch.tensor([1.0, 1.0]), "relu")).tolist()
        [2.0, 0.0]
    """
    residual, activation = epilogue
    if residual is not None:
        summed = y + residual
        if not isinstance(y, Proxy) and summed.shape != y.shape:  # a tracer has no shapes to compare
            raise ValueError(f"the residual has shape {tuple(residual.shape)}; expected that of x, {tuple(y.shape)}")
        y = summed
    if activation == "identity":
        return y
    if activation not in _APPLIED:
        raise UnknownName("activation", activation, ("identity", *_APPLIED))
    return _APPLIED[activation](y)

"""The operations that layers call: each goes to the first backend that takes its input."""

from torch import Tensor

from truenorm.kernels.activation import Activation
from truenorm.kernels.registry import backend_for


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: Activation = "identity",
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Normalise a batch by its own moments, and say what they are.

    $$ y = \mathrm{act}\!\left(\frac{x - m}{\sqrt{v + \epsilon}} \gamma + \beta + r\right) $$

    Args:
        x: activations of shape (N, C, ...).
        weight, bias: γ and β of shape (C,), or None.
        residual: r, of the shape of x, or None.
        activation: applied last.
        eps: ε.

    Returns:
        y of the shape of x; mean m and biased variance v over samples and positions, of shape (C,), without
        gradient (0 for an empty batch).

    Raises:
        ValueError: one value per channel has no variance.

    Source: Ioffe & Szegedy 2015.

    Example:
        >>> import torch
        >>> y, mean, var = batch_norm(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
        >>> mean.tolist(), var.tolist()
        ([2.0, 10.0], [1.0, 0.0])
    """
    return backend_for(x).batch_norm(x, weight, bias, residual=residual, activation=activation, eps=eps)


def normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: Activation = "identity",
    eps: float = 1e-5,
) -> Tensor:
    r"""Normalise by given statistics, as at inference: what the batch holds makes no difference to a sample.

    $$ y = \mathrm{act}\!\left(\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta + r\right) $$

    Args:
        x: activations of shape (N, C, ...).
        mean, var: μ and σ² of shape (C,).
        weight, bias, residual, activation, eps: as in `batch_norm`.

    Example:
        >>> import torch
        >>> normalize(torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0).item()
        1.0
    """
    return backend_for(x).normalize(x, mean, var, weight, bias, residual=residual, activation=activation, eps=eps)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of (N, C, ...), in at least float32, without gradient.

    Example:
        >>> import torch
        >>> [found.tolist() for found in moments(torch.tensor([[1.0], [3.0]]))]
        [[2.0], [1.0]]
    """
    return backend_for(x).moments(x)

"""The operations that layers call: each goes to the backend that takes its input."""

from torch import Tensor

from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
from truenorm.kernels.registry import backend_for


def batch_norm(
    x: Tensor, affine: Affine, epilogue: Epilogue = NOTHING, running: Running | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    r"""Normalise a batch by its own moments, and give them, or let running statistics take them in.

    $$ y = \mathrm{act}\!\left(\frac{x - m}{\sqrt{v + \epsilon}} \gamma + \beta + r\right) $$

    Args:
        x: activations of shape (N, C, ...).
        affine: γ, β and ε.
        epilogue: r and the activation.
        running: the running statistics that take the batch in, as `tracking.track` does it.

    Returns:
        y of the shape of x; mean m and biased variance v over samples and positions, of shape (C,), without
        gradient (0 for an empty batch). With `running` m and v may be None: not every backend computes them apart.

    Raises:
        ValueError: one value per channel has no variance.

    Source: Ioffe & Szegedy 2015.

    Example:
        >>> import torch
        >>> y, mean, var = batch_norm(torch.tensor([[1.0, 10.0], [3.0, 10.0]]), Affine())
        >>> mean.tolist(), var.tolist()
        ([2.0, 10.0], [1.0, 0.0])
    """
    return backend_for(x).batch_norm(x, affine, epilogue, running)


def normalize(x: Tensor, mean: Tensor, var: Tensor, affine: Affine, epilogue: Epilogue = NOTHING) -> Tensor:
    r"""Normalise by given statistics, as at inference: the result for a sample does not depend on its batch.

    $$ y = \mathrm{act}\!\left(\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta + r\right) $$

    Args:
        x: activations of shape (N, C, ...).
        mean, var: μ and σ² of shape (C,).
        affine, epilogue: as in `batch_norm`.

    Example:
        >>> import torch
        >>> normalize(torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([4.0]), Affine(eps=0.0)).item()
        1.0
    """
    return backend_for(x).normalize(x, mean, var, affine, epilogue)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of (N, C, ...), in at least float32, without gradient.

    Example:
        >>> import torch
        >>> [moment.tolist() for moment in moments(torch.tensor([[1.0], [3.0]]))]
        [[2.0], [1.0]]
    """
    return backend_for(x).moments(x)

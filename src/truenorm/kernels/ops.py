"""The operations that layers call: each goes to the backend that takes its input."""

from torch import Tensor

from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
from truenorm.kernels.aten import Aten, pooled_batch_norm, pools_at_once
from truenorm.kernels.epilogue import activated
from truenorm.kernels.registry import backend_for
from truenorm.kernels.tracking import pool


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


def batch_norm_pooled(
    x: Tensor, affine: Affine, epilogue: Epilogue, running_mean: Tensor, running_var: Tensor, gain: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `batch_norm`, and the batch is pooled into M and V with the gain a, in place.

    Args:
        x, affine, epilogue: as in `batch_norm`.
        running_mean, running_var: M and V, of shape (C,), float32 or float64.
        gain: a in (0, 1].

    Returns:
        y; m and 1/√(v + ε), of shape (C,).

    Example:
        >>> import torch
        >>> M, V = torch.zeros(1), torch.ones(1)
        >>> _ = batch_norm_pooled(torch.tensor([[1.0], [3.0]]), Affine(), NOTHING, M, V, 0.5)
        >>> M.item(), round(V.item(), 6)
        (1.0, 2.0)
    """
    backend = backend_for(x)
    if isinstance(backend, Aten) and pools_at_once(x, affine, running_mean, running_var):
        y, mean, inverse_std = pooled_batch_norm(x, affine, running_mean, running_var, gain=gain)
        return activated(y, epilogue), mean, inverse_std
    y, mean, var = backend.batch_norm(x, affine, epilogue)
    assert mean is not None and var is not None  # no running statistics were given
    M, V = running_mean.data, running_var.data  # past autograd's version counter
    pool(M, V, mean.to(M.dtype), var.to(V.dtype), gain)
    return y, mean, (var + affine.eps).rsqrt()


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

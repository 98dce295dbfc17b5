"""How running statistics take in a batch: pooled, or as torch does it."""

import torch
from torch import Tensor

from truenorm.kernels.arguments import Running


def track(running: Running, mean: Tensor, var: Tensor, *, count: int) -> None:
    r"""Take a batch into running statistics, in place.

    With a the gain and δ = m − M, pooled and as torch has it:

    $$ M \leftarrow M + a\delta, \qquad V \leftarrow (1-a)V + a v + a(1-a)\delta^2 \qquad
       \text{torch: } V \leftarrow (1-a)V + a v \tfrac{n}{n-1} $$

    pooled: a = max(momentum, 1/t), t batches with this one: an average at first, then an exponential one.
    torch: a = momentum. Both: momentum None averages, a = 1/t; without a count it does nothing.

    Args:
        running: M, V and t, momentum and which of the two.
        mean, var: m and v (biased) of the batch.
        count: n, values per channel.

    Example:
        >>> running = Running(torch.zeros(1), torch.ones(1), torch.tensor(0), momentum=None, tracking="pooled")
        >>> for m in (1.0, 3.0):
        ...     track(running, torch.tensor([m]), torch.tensor([2.0]), count=8)
        >>> running.mean.item(), running.var.item(), running.num_batches.item()
        (2.0, 3.0, 2)
    """
    running_mean, running_var, num_batches, momentum, tracking = running
    if running_mean is None or running_var is None:
        return
    if num_batches is not None and (momentum != 0 or tracking == "torch"):
        num_batches.add_(1)
    if momentum == 0 or (momentum is None and num_batches is None):
        return
    exact = running_mean.dtype in _EXACT
    # Past autograd's version counter, as torch's own batch norm writes: the graph of an earlier forward in
    # evaluation mode holds these buffers. Half types are too coarse for δ², so they are only stored.
    M, V = (
        buffer if torch.compiler.is_compiling() else buffer.data if exact else buffer.float()
        for buffer in (running_mean, running_var)
    )
    if mean.dtype != M.dtype:
        mean, var = mean.to(M.dtype), var.to(V.dtype)
    if tracking == "torch" and momentum is not None:
        gain: float | Tensor = momentum
    elif num_batches is None:
        gain = momentum or 0.0
    else:
        gain = _gain(num_batches, momentum or 0.0, M.dtype)
    if tracking == "torch":
        M.lerp_(mean, gain)
        V.lerp_(var * (count / max(1, count - 1)), gain)
    else:
        pool(M, V, mean, var, gain)
    if not exact:
        running_mean.data.copy_(M)
        running_var.data.copy_(V)


def pool(M: Tensor, V: Tensor, mean: Tensor, var: Tensor, gain: float | Tensor) -> None:
    """The pooled recursion of `track` with a gain a, in place.

    Example:
        >>> M, V = torch.zeros(1), torch.ones(1)
        >>> pool(M, V, torch.tensor([2.0]), torch.tensor([3.0]), 0.5)
        >>> M, V
        (tensor([1.]), tensor([3.]))
    """
    delta = mean - M
    M.lerp_(mean, gain)
    V.lerp_(var, gain).addcmul_(delta, delta * (gain * (1 - gain)))


def counted(num_batches: Tensor | None, momentum: float | None, dtype: torch.dtype) -> float | None:
    """Count one batch more and give max(momentum, 1/t), where reading t is free and the buffers are exact; else None.

    Example:
        >>> counted(torch.tensor(3), 0.1, torch.float32)
        0.25
    """
    if num_batches is None or dtype not in _EXACT or not is_free(num_batches):
        return None
    num_batches.add_(1)
    return max(momentum or 0.0, 1 / int(num_batches))


_EXACT = (torch.float32, torch.float64)


def is_free(num_batches: Tensor) -> bool:
    """Can t be read without making a GPU wait, or breaking a graph that is being made?"""
    return type(num_batches) is Tensor and num_batches.is_cpu and not torch.compiler.is_compiling()


def _gain(num_batches: Tensor, momentum: float, dtype: torch.dtype) -> float | Tensor:
    if is_free(num_batches):
        return max(momentum, 1 / int(num_batches))
    return num_batches.to(dtype).reciprocal().clamp_min(momentum)

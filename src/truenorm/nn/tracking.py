"""How running statistics take in a batch: pooled, or as torch does it."""

from typing import Literal

import torch
from torch import Tensor

Tracking = Literal["pooled", "torch"]
"""`pooled`: biased variances, and the variance between batches. `torch`: torch's own recursion, with n/(n−1)."""

LONG_TRAINED = 10_000
"""Batches that stand behind statistics of which nobody counted the batches."""


def track(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    var: Tensor,
    *,
    count: int,
    momentum: float | None,
    tracking: Tracking,
) -> None:
    r"""Take a batch into running statistics, in place.

    With a the gain and δ = m − M, pooled and as torch has it:

    $$ M \leftarrow M + a\delta, \qquad V \leftarrow (1-a)V + a v + a(1-a)\delta^2 \qquad
       \text{torch: } V \leftarrow (1-a)V + a v \tfrac{n}{n-1} $$

    pooled: a = max(momentum, 1/t), t batches with this one: an average at first, then an exponential one.
    torch: a = momentum. Both: momentum None averages, a = 1/t; without a count it does nothing.

    Args:
        running_mean, running_var: M and V, of shape (C,).
        num_batches_tracked: t before this batch; raised here. None: nobody counts.
        mean, var: m and v (biased) of the batch.
        count: n, values per channel.
        momentum: weight of the new batch (Keras's is 1 − ours). 0 leaves everything as it is.
        tracking: which of the two.

    Example:
        >>> M, V, t = torch.zeros(1), torch.ones(1), torch.tensor(0)
        >>> for m in (1.0, 3.0):
        ...     batch = {"mean": torch.tensor([m]), "var": torch.tensor([2.0])}
        ...     track(M, V, t, **batch, count=8, momentum=None, tracking="pooled")
        >>> M.item(), V.item(), t.item()
        (2.0, 3.0, 2)
    """
    if num_batches_tracked is not None and (momentum != 0 or tracking == "torch"):
        num_batches_tracked.add_(1)
    if momentum == 0 or (momentum is None and num_batches_tracked is None):
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
    elif num_batches_tracked is None:
        gain = momentum or 0.0
    else:
        gain = _gain(num_batches_tracked, momentum or 0.0, M.dtype)
    if tracking == "torch":
        M.lerp_(mean, gain)
        V.lerp_(var * (count / max(1, count - 1)), gain)
    else:
        delta = mean - M
        M.lerp_(mean, gain)
        V.lerp_(var, gain).addcmul_(delta, delta * (gain * (1 - gain)))
    if not exact:
        running_mean.data.copy_(M)
        running_var.data.copy_(V)


def counted(num_batches: Tensor | None, momentum: float | None, dtype: torch.dtype) -> float | None:
    """Count one batch more and give max(momentum, 1/t), where reading t is free and the buffers are exact; else None.

    Example:
        >>> counted(torch.tensor(3), 0.1, torch.float32)
        0.25
    """
    if num_batches is None or dtype not in _EXACT or not _is_free(num_batches):
        return None
    num_batches.add_(1)
    return max(momentum or 0.0, 1 / int(num_batches))


_EXACT = (torch.float32, torch.float64)


def _is_free(num_batches: Tensor) -> bool:
    """Can t be read without making a GPU wait, or breaking a graph that is being made?"""
    return type(num_batches) is Tensor and num_batches.is_cpu and not torch.compiler.is_compiling()


def _gain(num_batches: Tensor, momentum: float, dtype: torch.dtype) -> float | Tensor:
    if _is_free(num_batches):
        return max(momentum, 1 / int(num_batches))
    return num_batches.to(dtype).reciprocal().clamp_min(momentum)

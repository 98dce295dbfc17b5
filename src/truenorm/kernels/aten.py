"""torch's own batch norm: on CPUs no kernel of ours made a training step faster; and compilers know it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
from truenorm.kernels.epilogue import activated
from truenorm.kernels.tracking import counted, track


class Aten:
    """Everything that torch takes."""

    def refusal(self, x: Tensor) -> str | None:
        return None

    def batch_norm(
        self, x: Tensor, affine: Affine, epilogue: Epilogue = NOTHING, running: Running | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if running is not None:
            return activated(_tracked(x, affine, running), epilogue), None, None
        y, mean, var = _with_moments(x, affine)
        return activated(y, epilogue), mean, var

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine, epilogue: Epilogue = NOTHING) -> Tensor:
        weight, bias, eps = affine
        return activated(F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), epilogue)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.detach().to(_statistics_type(x, None))
        if values.is_cpu and values.numel():
            return _moments_on_cpu(values)
        var, mean = torch.var_mean(values, [0, *range(2, x.ndim)], correction=0)
        return mean, var


def deliver_moments(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """`moments`, and written where a stream keeps them: the mean, and the unbiased variance that torch's buffers hold.

    Args:
        x: (N, C, ...).
        mean, var: of shape (C,), written; one value per channel has the variance 0.

    Returns:
        mean and biased variance.

    Example:
        >>> mean, var = torch.zeros(1), torch.zeros(1)
        >>> _, biased = deliver_moments(torch.tensor([[1.0], [3.0]]), mean, var)
        >>> mean.item(), var.item(), biased.item()
        (2.0, 2.0, 1.0)
    """
    n = x.numel() // len(mean)
    if x.ndim == 2 and x.is_cpu and x.dtype == mean.dtype and 1 < n <= _FEW:
        return torch.batch_norm_update_stats(x, mean, var, 1.0)  # one call for all four
    found_mean, found_var = Aten().moments(x)
    mean.copy_(found_mean)
    var.copy_(found_var * (n / max(n - 1, 1)))
    return found_mean, found_var


_FEW = 256
"""Values that torch's batch norm sums one after the other without losing digits that count."""


def _with_moments(x: Tensor, affine: Affine) -> tuple[Tensor, Tensor, Tensor]:
    # With momentum 1 torch writes the moments it normalises by into the buffers it is given: no second
    # reduction, and no digits lost, as there would be in a variance that came back from 1/√(v+ε).
    weight, bias, eps = affine
    mean = torch.zeros(x.shape[1], dtype=_statistics_type(x, weight), device=x.device)
    var = torch.zeros_like(mean)
    y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, eps)
    n = x.numel() // x.shape[1]
    # torch's variance is unbiased; and autograd holds it, so it is not scaled in place.
    return y, mean, var * ((n - 1) / n) if n else var


def _tracked(x: Tensor, affine: Affine, running: Running) -> Tensor:
    """Normalise by the batch and update the running statistics, by as few operations of torch's as there can be."""
    weight, bias, eps = affine
    mean, var, num_batches, momentum, tracking = running
    if mean is None or var is None:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    if x.shape[1] != mean.numel():
        return F.batch_norm(x, mean, var, weight, bias, True, 0.0, eps)  # torch's error
    if tracking == "torch" and momentum is not None:
        if num_batches is not None:
            num_batches.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
    if tracking == "pooled" and momentum != 0 and pools_at_once(x, affine, mean, var):
        gain = counted(num_batches, momentum, mean.dtype)
        if gain is not None:
            return pooled_batch_norm(x, affine, mean, var, gain=gain)[0]
    y, batch_mean, batch_var = _with_moments(x, affine)
    if x.numel():
        track(running, batch_mean, batch_var, count=x.numel() // mean.numel())
    return y


def pools_at_once(x: Tensor, affine: Affine, running_mean: Tensor, running_var: Tensor) -> bool:
    """Can `pooled_batch_norm` take this?

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> pools_at_once(torch.zeros(2, 1), Affine(), *running), pools_at_once(torch.zeros(1, 1), Affine(), *running)
        (True, False)
    """
    channels = running_mean.numel()
    alike = all(value is None or value.numel() == channels for value in (running_var, affine.weight, affine.bias))
    return affine.eps > 0 and x.numel() > channels and x.dtype == running_mean.dtype and alike


def pooled_batch_norm(
    x: Tensor, affine: Affine, running_mean: Tensor, running_var: Tensor, *, gain: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm and the pooled update of M and V in one, where a is a number: for CPUs, half the extra work.

    torch's kernel writes M' = (1−a)M + a m and V' = (1−a)V + a v n/(n−1) itself. It is given V n/(n−1); of what
    comes back (n−1)/n is (1−a)V + a v, and a(1−a)δ² = (m−M')² a/(1−a) is added.

    Args:
        x: (N, C, ...), at least two values per channel, of the buffers' type.
        affine: γ, β and ε.
        running_mean, running_var: M and V, updated in place.
        gain: a in (0, 1].

    Returns:
        y; m and 1/√(v + ε), of shape (C,).

    Example:
        >>> M, V = torch.zeros(1), torch.ones(1)
        >>> _ = pooled_batch_norm(torch.tensor([[1.0], [3.0]]), Affine(), M, V, gain=0.5)
        >>> M.item(), round(V.item(), 6)
        (1.0, 2.0)
    """
    weight, bias, eps = affine
    n = x.numel() // running_mean.numel()
    # Past autograd's version counter, as torch's kernel writes: an earlier graph may hold these buffers.
    V = running_var.data
    V.mul_(n / (n - 1))
    try:
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, gain, eps)
    finally:
        V.mul_((n - 1) / n)
    if gain < 1:
        delta = mean - running_mean
        V.addcmul_(delta, delta, value=gain / (1 - gain))
    return y, mean, inverse_std


def _moments_on_cpu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes of plain sums, of which torch's are exact: several times as fast as its variance over many dims."""
    if x.ndim == 2 or is_channels_last(x):
        rows_MC = x.movedim(1, -1).reshape(-1, x.shape[1])
        mean = rows_MC.mean(0)
        return mean, (rows_MC - mean).square_().mean(0)
    n = x.numel() // x.shape[1]
    values_NCL = x.reshape(*x.shape[:2], -1)
    mean = values_NCL.sum(2).sum(0) / n
    return mean, (values_NCL - mean[:, None]).square_().sum(2).sum(0) / n


def is_channels_last(x: Tensor) -> bool:
    """Do the channels of a position lie side by side, for any number of dimensions? Not what is also contiguous."""
    return x.ndim > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _statistics_type(x: Tensor, weight: Tensor | None) -> torch.dtype:
    """torch takes buffers of the weight's type; without a weight, of at least float32."""
    if weight is not None:
        return weight.dtype
    return torch.float64 if x.dtype == torch.float64 else torch.float32

"""The kernels launched on tensors: plain functions, without gradients.

Tensors given are dense, contiguous or channels-last, all of x's layout (`dense`, `like`).
"""

# pyright: basic
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from truenorm.kernels.arguments import Activation
from truenorm.kernels.aten import is_channels_last
from truenorm.kernels.triton.device import tile
from truenorm.kernels.triton.device.apply import apply
from truenorm.kernels.triton.device.bwd_apply import bwd_apply
from truenorm.kernels.triton.device.bwd_finalize import bwd_finalize
from truenorm.kernels.triton.device.bwd_reduce import bwd_reduce
from truenorm.kernels.triton.device.finalize import finalize
from truenorm.kernels.triton.device.stats import stats
from truenorm.kernels.triton.plan import Plan, plan_for

SIGN_DECIDES = ("relu", "leaky_relu")
"""Activations whose gradient needs one bit of what went in."""

_LAYOUTS = {"rows": tile.ROWS.value, "flat": tile.FLAT.value, "planes": tile.PLANES.value}
_FINAL_ENTRIES, _FINAL_CHANNELS = 256, 8
"""A tile of the finalizing kernels: few channels, so that many programs share them."""


def dense(x: Tensor) -> Tensor:
    """x itself where a plan can walk through it, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


def laid_out(x: Tensor, *, channels_last: bool) -> Tensor:
    """x as it lay in the forward, whose tiles the bits are in: what saves tensors elsewhere may drop their strides."""
    if is_channels_last(x) == channels_last:
        return x
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x.contiguous()


def like(x: Tensor, other: Tensor) -> Tensor:
    """`other` in the layout of x: a gradient comes expanded, or in whatever layout its maker had."""
    same = is_channels_last(other) if is_channels_last(x) else other.is_contiguous()
    return other if same else torch.empty_like(x, dtype=other.dtype).copy_(other)


def planned(x: Tensor) -> Plan:
    """How kernels go through x."""
    samples, channels, *space = map(int, x.shape)  # a symbolic shape becomes the one at hand
    return plan_for(samples, channels, prod(space), is_channels_last(x))


def measured(x: Tensor, num_batches_tracked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Moments of the programs' shares: (parts, 3, columns) and how many values are behind each part.

    The count of batches, where there is one, is raised.
    """
    plan = planned(x)
    partials = x.new_empty((plan.splits, 3, plan.columns), dtype=exact(x))
    counts = x.new_empty(plan.splits, dtype=torch.float64)
    _sweep(stats, plan, x, x, partials, counts, num_batches_tracked)
    return partials, counts


def combined(
    partials: Tensor,
    counts: Tensor,
    channels: int,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    momentum: Tensor | None = None,
    fixed_momentum: float | None = None,
    pooled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, the digits that it lacks, and biased variance; and the running statistics take them in.

    Parts may be those of one process (`measured`), or one of each process of a group.
    """
    mean = partials.new_empty(channels)
    mean_lo, var = torch.empty_like(mean), torch.empty_like(mean)
    launch(
        finalize,
        (-(-channels // _FINAL_CHANNELS),),
        partials,
        counts,
        mean,
        mean_lo,
        var,
        running_mean,
        running_var,
        num_batches_tracked,
        momentum,
        fixed_momentum,
        len(counts),
        channels,
        partials.shape[2] // channels,
        SINGLE=partials.shape[2] == channels,
        POOLED=pooled,
        BE=_FINAL_ENTRIES,
        BC=_FINAL_CHANNELS,
        ACC=_accumulator(mean),
        num_warps=8,
    )
    return mean, mean_lo, var


def applied(
    x: Tensor,
    mean: Tensor,
    mean_lo: Tensor | None,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    activation: Activation,
    eps: float,
    keep_bits: bool,
) -> tuple[Tensor, Tensor | None]:
    """y, and the bits that the gradient of the activation needs where asked for."""
    plan = planned(x)
    y = torch.empty_like(x)
    bits = x.new_empty(plan.bits, dtype=torch.uint8) if keep_bits else None
    _sweep(apply, plan, x, x, residual, y, bits, mean, mean_lo, var, weight, bias, EPS=eps, ACTIVATION=activation)
    return y, bits


def reduced(
    dy: Tensor,
    x: Tensor,
    bits: Tensor | None,
    mean: Tensor,
    mean_lo: Tensor | None,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    activation: Activation,
    eps: float,
    with_sums: bool,
    with_residual: bool,
    with_dx: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Sums (parts, 2, columns), the gradient before the activation, and that of x by given statistics."""
    plan = planned(x)
    if bits is not None and bits.numel() != plan.bits:
        raise RuntimeError(f"{bits.numel()} bytes of signs for an input whose tiles have {plan.bits}: not its own")
    sums = x.new_empty((plan.splits, 2, plan.columns), dtype=exact(x)) if with_sums else None
    dresidual = torch.empty_like(x) if with_residual else None
    dx = torch.empty_like(x) if with_dx else None
    reads_x = with_sums or (activation != "identity" and bits is None)
    _sweep(
        bwd_reduce,
        plan,
        x,
        dy,
        x if reads_x else None,
        bits,
        sums,
        dresidual,
        dx,
        mean,
        mean_lo,
        var,
        weight,
        bias,
        EPS=eps,
        ACTIVATION=activation,
    )
    return sums, dresidual, dx


def parameter_gradients(
    sums: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    count: int,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """dγ, dβ where there is such a parameter, and the means (C, 2) that `input_gradient` takes away."""
    channels = len(var)
    dweight = None if weight is None else torch.empty_like(weight)
    dbias = None if bias is None else torch.empty_like(bias)
    means = sums.new_empty((channels, 2))
    launch(
        bwd_finalize,
        (-(-channels // _FINAL_CHANNELS),),
        sums,
        dweight,
        dbias,
        means,
        var,
        count,
        len(sums),
        channels,
        sums.shape[2] // channels,
        SINGLE=sums.shape[2] == channels,
        EPS=eps,
        BE=_FINAL_ENTRIES,
        BC=_FINAL_CHANNELS,
        ACC=_accumulator(means),
        num_warps=8,
    )
    return dweight, dbias, means


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    mean_lo: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    means: Tensor,
    *,
    activation: Activation,
    eps: float,
) -> Tensor:
    """dx where the batch's own moments normalised it."""
    dx = torch.empty_like(x)
    _sweep(bwd_apply, planned(x), x, dy, x, dx, mean, mean_lo, var, weight, bias, means, EPS=eps, ACTIVATION=activation)
    return dx


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its first argument."""
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **options)


def _sweep(kernel: Any, plan: Plan, x: Tensor, *arguments: Any, **options: Any) -> None:
    """Run a kernel over all tiles of x's plan."""
    align = plan.align
    launch(
        kernel,
        (plan.lanes, plan.splits),
        *arguments,
        plan.rows,
        plan.steps,
        plan.width // align,
        plan.length // align if plan.layout == "planes" else plan.length,
        **options,
        ALIGN=align,
        LAYOUT=_LAYOUTS[plan.layout],
        BM=plan.block_rows,
        BC=plan.block_columns,
        INDEX=tl.int64 if plan.wide else tl.int32,
        ACC=_accumulator(x),
    )


def exact(x: Tensor) -> torch.dtype:
    """What sums and statistics of x are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _accumulator(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32

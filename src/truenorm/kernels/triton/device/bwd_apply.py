"""The input's gradient where the batch's own moments normalised it."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.activation import through_activation
from truenorm.kernels.triton.device.tile import centred, channel, inverse_std, per_channel, place


@triton.jit(do_not_specialize=["rows", "steps", "width", "length"])
def bwd_apply(
    dy,
    x,
    dx,
    mean,
    mean_lo,
    var,
    weight,
    bias,
    means,
    rows,
    steps,
    width,
    length,
    EPS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALIGN: tl.constexpr,
    LAYOUT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """dx = γ/√(v+ε) (g − G/n − (x − m) P/(n(v+ε))), from the end, as `apply`.

    With a residual dy is its gradient, which is g already, and ACTIVATION "identity": no bits are read twice.
    """
    c = channel(width, length, ALIGN, LAYOUT, BC)
    m = per_channel(mean, c, ACC, 0.0)
    m_lo = per_channel(mean_lo, c, ACC, 0.0)
    scale = per_channel(weight, c, ACC, 1.0) * inverse_std(per_channel(var, c, ACC, 1.0), EPS)
    shift = per_channel(bias, c, ACC, 0.0)
    mean_g = per_channel(means, c * 2, ACC, 0.0)
    mean_p = per_channel(means, c * 2 + 1, ACC, 0.0)
    last = (tl.num_programs(1) - tl.program_id(1)).to(INDEX) * steps - 1
    for step in range(0, steps):
        offsets, inside = place(last - step, rows, width, length, ALIGN, LAYOUT, BM, BC)
        g = tl.load(dy + offsets, mask=inside, other=0.0).to(ACC)
        value = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
        g = through_activation(g, value, m, m_lo, scale, shift, None, last - step, ACTIVATION, BM, BC)
        gradient = ((g - mean_g) - centred(value, m, m_lo) * mean_p) * scale
        tl.store(dx + offsets, gradient.to(dx.dtype.element_ty), mask=inside)

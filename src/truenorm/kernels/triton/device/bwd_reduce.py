"""What gradients need to know of the batch: sums of the output's gradient, alone and times x − m."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.activation import through_activation
from truenorm.kernels.triton.device.tile import centred, channel, inverse_std, over_tile, per_channel, place, store_sums


@triton.jit(do_not_specialize=["rows", "steps", "width", "length"])
def bwd_reduce(
    dy,
    x,
    bits,
    sums,
    dresidual,
    dx,
    mean,
    mean_lo,
    var,
    weight,
    bias,
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
    """sums[split] = (Σg, Σg(x − m)), g the gradient before the activation; dresidual = g.

    dx, where statistics were given, does not depend on the sums: γ/√(v+ε) g, in the same sweep. Without sums and
    without a need for x it is not read.
    """
    c = channel(width, length, ALIGN, LAYOUT, BC)
    m = per_channel(mean, c, ACC, 0.0)
    m_lo = per_channel(mean_lo, c, ACC, 0.0)
    scale = per_channel(weight, c, ACC, 1.0) * inverse_std(per_channel(var, c, ACC, 1.0), EPS)
    shift = per_channel(bias, c, ACC, 0.0)
    split = tl.program_id(1)
    total = tl.zeros([BM, BC], ACC)
    product = tl.zeros([BM, BC], ACC)
    for step in range(0, steps):
        tile = split.to(INDEX) * steps + step
        offsets, inside = place(tile, rows, width, length, ALIGN, LAYOUT, BM, BC)
        g = tl.load(dy + offsets, mask=inside, other=0.0).to(ACC)
        value = g
        if x is not None:
            value = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
        g = through_activation(g, value, m, m_lo, scale, shift, bits, tile, ACTIVATION, BM, BC)
        if dresidual is not None:
            tl.store(dresidual + offsets, g.to(dresidual.dtype.element_ty), mask=inside)
        if dx is not None:
            tl.store(dx + offsets, (g * scale).to(dx.dtype.element_ty), mask=inside)
        if sums is not None:
            total += g
            product += g * centred(value, m, m_lo)
    if sums is not None:
        store_sums(sums, over_tile(total, LAYOUT), split.to(tl.int64), 0, 2, width, ALIGN, LAYOUT, BC)
        store_sums(sums, over_tile(product, LAYOUT), split.to(tl.int64), 1, 2, width, ALIGN, LAYOUT, BC)

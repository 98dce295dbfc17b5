"""Normalise by moments, of the batch or given; add; activate."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.activation import activate, at_bits, packed
from truenorm.kernels.triton.device.tile import centred, channel, inverse_std, per_channel, place


@triton.jit(do_not_specialize=["rows", "steps", "width", "length"])
def apply(
    x,
    residual,
    y,
    bits,
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
    """y = act((x − m)/√(v+ε) γ + β + r); bits: where the activation's input is positive, kept for the gradient.

    Tiles are walked from the end: what `stats` read last is still in the cache.
    """
    c = channel(width, length, ALIGN, LAYOUT, BC)
    m = per_channel(mean, c, ACC, 0.0)
    m_lo = per_channel(mean_lo, c, ACC, 0.0)
    scale = per_channel(weight, c, ACC, 1.0) * inverse_std(per_channel(var, c, ACC, 1.0), EPS)
    shift = per_channel(bias, c, ACC, 0.0)
    last = (tl.num_programs(1) - tl.program_id(1)).to(INDEX) * steps - 1
    for step in range(0, steps):
        tile = last - step
        offsets, inside = place(tile, rows, width, length, ALIGN, LAYOUT, BM, BC)
        value = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
        pre = tl.fma(centred(value, m, m_lo), scale, shift)
        if residual is not None:
            pre += tl.load(residual + offsets, mask=inside, other=0.0).to(ACC)
        tl.store(y + offsets, activate(pre, ACTIVATION).to(y.dtype.element_ty), mask=inside)
        if bits is not None:
            tl.store(bits + at_bits(tile, BM, BC), packed(pre > 0, BM, BC))

"""Gradients of γ and β, and the two numbers per channel that the input's gradient needs."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.tile import inverse_std


@triton.jit(do_not_specialize=["parts", "channels", "length", "count"])
def bwd_finalize(
    sums,
    dweight,
    dbias,
    means,
    var,
    count,
    parts,
    channels,
    length,
    SINGLE: tl.constexpr,
    EPS: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """With G = Σg and P = Σg(x − m) over n values: dγ = P/√(v+ε), dβ = G, means[c] = (G/n, P/(n(v+ε))).

    sums is (parts, 2, channels · length), added in float64 in an order that only the shape decides.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    there = c < channels
    width = channels.to(tl.int64) * length
    at_channel = c.to(tl.int64) * length
    total = tl.zeros([BE, BC], tl.float64)
    product = tl.zeros([BE, BC], tl.float64)
    entries = parts * length
    for start in range(0, entries, BE):
        entry = start + tl.arange(0, BE)
        if SINGLE:  # said when compiling, or the loads would not be coalesced
            at = (entry * 2 * width)[:, None] + c.to(tl.int64)[None, :]
        else:
            part = entry // length
            at = (part * 2 * width + (entry - part * length))[:, None] + at_channel[None, :]
        inside = (entry < entries)[:, None] & there[None, :]
        total += tl.load(sums + at, mask=inside, other=0.0).to(tl.float64)
        product += tl.load(sums + at + width, mask=inside, other=0.0).to(tl.float64)
    g = tl.sum(total, axis=0)
    p = tl.sum(product, axis=0)
    rstd = inverse_std(tl.load(var + c, mask=there, other=1.0).to(ACC), EPS).to(tl.float64)
    if dweight is not None:
        tl.store(dweight + c, (p * rstd).to(dweight.dtype.element_ty), mask=there)
    if dbias is not None:
        tl.store(dbias + c, g.to(dbias.dtype.element_ty), mask=there)
    if means is not None:
        n = tl.cast(count, tl.float64)
        tl.store(means + c * 2, (g / n).to(ACC), mask=there)
        tl.store(means + c * 2 + 1, (p * rstd * rstd / n).to(ACC), mask=there)

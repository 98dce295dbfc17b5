"""The activation, its gradient, and the bits that stand for what went into it."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.tile import centred


@triton.jit
def activate(pre, ACTIVATION: tl.constexpr):
    """act(pre); NaN stays NaN."""
    if ACTIVATION == "relu":
        return tl.where(pre < 0, 0.0, pre)
    elif ACTIVATION == "leaky_relu":
        return tl.where(pre < 0, pre * 0.01, pre)
    elif ACTIVATION == "silu":
        return pre / (1.0 + tl.exp(-pre))
    elif ACTIVATION == "gelu":
        return 0.5 * pre * (1.0 + tl.erf(pre * 0.7071067811865476))
    elif ACTIVATION == "hardswish":
        return tl.where(pre < -3, 0.0, tl.where(pre > 3, pre, pre * (pre + 3.0) / 6.0))
    else:
        return pre


@triton.jit
def slope(pre, ACTIVATION: tl.constexpr):
    """d act / d pre, of those that are smooth."""
    if ACTIVATION == "silu":
        gate = 1.0 / (1.0 + tl.exp(-pre))
        return gate * (1.0 + pre * (1.0 - gate))
    elif ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(pre * 0.7071067811865476))
        return below + pre * 0.3989422804014327 * tl.exp(-0.5 * pre * pre)
    else:
        return tl.where(pre < -3, 0.0, tl.where(pre > 3, 1.0, pre / 3.0 + 0.5))


@triton.jit
def at_bits(tile, BM: tl.constexpr, BC: tl.constexpr):
    """Where a tile's signs lie, one bit an element: in the order of tiles, so that every shape has whole bytes."""
    base = (tile.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (BM * BC // 8)
    return base + tl.arange(0, BM)[:, None] * (BC // 8) + tl.arange(0, BC // 8)[None, :]


@triton.jit
def packed(positive, BM: tl.constexpr, BC: tl.constexpr):
    """Booleans (BM, BC) → bytes (BM, BC/8)."""
    bits = tl.reshape(positive.to(tl.int32), [BM, BC // 8, 8]) << tl.arange(0, 8)[None, None, :]
    return tl.sum(bits, axis=2).to(tl.uint8)


@triton.jit
def unpacked(packed_bits, BM: tl.constexpr, BC: tl.constexpr):
    """Bytes (BM, BC/8) → booleans (BM, BC)."""
    bits = (packed_bits.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, [BM, BC]) != 0


@triton.jit
def through_activation(
    g, value, m, m_lo, scale, shift, bits, tile, ACTIVATION: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    """The gradient before the activation: by the bits that were kept, else by what x says, which is read anyway."""
    if ACTIVATION == "identity":
        return g
    else:
        if bits is not None:
            positive = unpacked(tl.load(bits + at_bits(tile, BM, BC)), BM, BC)
            if ACTIVATION == "leaky_relu":
                return tl.where(positive, g, g * 0.01)
            else:
                return tl.where(positive, g, 0.0)
        else:
            pre = tl.fma(centred(value, m, m_lo), scale, shift)
            if ACTIVATION == "relu":
                return tl.where(pre > 0, g, 0.0)
            elif ACTIVATION == "leaky_relu":
                return tl.where(pre > 0, g, g * 0.01)
            else:
                return g * slope(pre, ACTIVATION)

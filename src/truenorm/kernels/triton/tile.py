"""Where the elements of a tile lie, which channels they belong to, and what is done to each: shared by all kernels.

A tile has BM rows of BC neighbours in memory. Three layouts differ in what a row is (`plan` chooses):

- ROWS, channels-last: a position; its neighbours are channels.
- FLAT, (N, C, L) with short planes: a sample; its neighbours are positions, and channel = column // L.
- PLANES, (N, C, L) with long planes: BC positions of one plane; the program's number is the channel.
"""

# pyright: reportPrivateImportUsage=false, reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
import triton
import triton.language as tl

ROWS = tl.constexpr(0)
FLAT = tl.constexpr(1)
PLANES = tl.constexpr(2)


@triton.jit
def place(tile, rows, width, length, ALIGN: tl.constexpr, LAYOUT: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Offsets of a tile's elements, and which of them exist.

    `width` (elements from row to row) and, when PLANES, `length` (of a plane) come divided by ALIGN: only a product
    tells the compiler what they are multiples of, and without that it loads two bytes at a time.
    """
    row = tile * BM + tl.arange(0, BM)
    neighbour = tl.arange(0, BC)
    if LAYOUT == PLANES:
        size = length * ALIGN
        chunks = tl.cdiv(size, BC)
        sample = row // chunks
        start = (row - sample * chunks) * BC
        base = sample.to(tl.int64) * (width * ALIGN) + tl.program_id(0).to(tl.int64) * size + start
        inside = (sample < rows)[:, None] & (start[:, None] + neighbour[None, :] < size)
        return base[:, None] + neighbour[None, :], inside
    else:
        column = tl.program_id(0) * BC + neighbour
        inside = (row < rows)[:, None] & (column < width * ALIGN)[None, :]
        return row.to(tl.int64)[:, None] * (width * ALIGN) + column[None, :], inside


@triton.jit
def positions(tile, tiles, rows, length, ALIGN: tl.constexpr, LAYOUT: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """How many elements each channel (each column, when FLAT) has in the tiles from `tile` on, `tiles` of them."""
    if LAYOUT == PLANES:
        size = length * ALIGN
        chunks = tl.cdiv(size, BC)
        end = tl.cast(rows, tl.int64) * chunks
        first = tl.minimum(tl.cast(tile, tl.int64) * BM, end)
        last = tl.minimum(first + tl.cast(tiles, tl.int64) * BM, end)
        # The last chunk of each plane is short.
        return (last - first) * BC - (last // chunks - first // chunks) * (chunks * BC - size)
    else:
        first = tl.minimum(tl.cast(tile, tl.int64) * BM, rows)
        return tl.minimum(first + tl.cast(tiles, tl.int64) * BM, rows) - first


@triton.jit
def channel(width, length, ALIGN: tl.constexpr, LAYOUT: tl.constexpr, BC: tl.constexpr):
    """The channel of each column: (BC,), or one number where the program has one. Always a channel that exists."""
    if LAYOUT == PLANES:
        return tl.program_id(0)
    else:
        column = tl.minimum(tl.program_id(0) * BC + tl.arange(0, BC), width * ALIGN - 1)
        if LAYOUT == FLAT:
            return column // length
        else:
            return column


@triton.jit
def over_tile(values, LAYOUT: tl.constexpr):
    """Sum per column, or per tile where it is all one channel."""
    sums = tl.sum(values, axis=0)
    if LAYOUT == PLANES:
        return tl.sum(sums, axis=0)
    else:
        return sums


@triton.jit
def store_sums(to, sums, split, number, of: tl.constexpr, width, ALIGN: tl.constexpr, LAYOUT: tl.constexpr, BC: tl.constexpr):
    """Sums of a program into to[split, number, column or channel] of shape (splits, of, ...)."""
    if LAYOUT == PLANES:
        tl.store(to + (split * of + number) * tl.num_programs(0) + tl.program_id(0), sums)
    else:
        column = tl.program_id(0) * BC + tl.arange(0, BC)
        tl.store(to + (split * of + number) * (width * ALIGN) + column, sums, mask=column < width * ALIGN)


@triton.jit
def per_channel(pointer, channel, ACC: tl.constexpr, default: tl.constexpr):
    """A parameter of each channel; what it is where there is none."""
    if pointer is None:
        return tl.full([], default, ACC)
    else:
        return tl.load(pointer + channel).to(ACC)


@triton.jit
def inverse_std(var, eps):
    """1/√(v+ε), both steps correctly rounded: it scales every output."""
    if var.dtype == tl.float64:
        return 1.0 / tl.sqrt(var + eps)
    else:
        return tl.div_rn(tl.full([], 1.0, tl.float32), tl.sqrt_rn(var + eps))


@triton.jit
def centred(x, mean, mean_lo):
    """x − m, with the digits of m that one number does not hold: all of them count where |m| is far above σ."""
    return (x - mean) - mean_lo


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
    """d act / d pre."""
    if ACTIVATION == "relu":
        return tl.where(pre > 0, 1.0, 0.0)
    elif ACTIVATION == "leaky_relu":
        return tl.where(pre > 0, 1.0, 0.01)
    elif ACTIVATION == "silu":
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

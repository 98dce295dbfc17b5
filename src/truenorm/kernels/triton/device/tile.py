"""Where the elements of a tile lie, which channels they belong to: shared by all kernels.

A tile has BM rows of BC neighbours in memory. Three layouts differ in what a row is (`plan` chooses):

- ROWS, channels-last: a position; its neighbours are channels.
- FLAT, (N, C, L) with short planes: a sample; its neighbours are positions, and channel = column // L.
- PLANES, (N, C, L) with long planes: BC positions of one plane; the program's number is the channel.
"""

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
        size = tl.cast(length, tile.dtype) * ALIGN
        chunks = tl.cdiv(size, BC)
        sample = row // chunks
        start = (row - sample * chunks) * BC
        base = sample.to(tl.int64) * (tl.cast(width, tl.int64) * ALIGN) + tl.program_id(0).to(tl.int64) * size + start
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
        size = tl.cast(length, tile.dtype) * ALIGN
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
def store_sums(
    to, sums, split, number, of: tl.constexpr, width, ALIGN: tl.constexpr, LAYOUT: tl.constexpr, BC: tl.constexpr
):
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

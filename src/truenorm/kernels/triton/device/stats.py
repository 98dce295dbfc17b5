"""Moments of each program's share of the batch."""

import triton
import triton.language as tl

from truenorm.kernels.triton.device.tile import over_tile, place, positions, store_sums


@triton.jit(do_not_specialize=["rows", "steps", "width", "length"])
def stats(
    x,
    partials,
    counts,
    num_batches_tracked,
    rows,
    steps,
    width,
    length,
    ALIGN: tl.constexpr,
    LAYOUT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """partials[split] = (mean, the digits that it lacks, Σ(x − mean)²), counts[split] = n.

    Sums are of differences to a pivot, the mean of the first tile: raw sums lose everything where |m| ≫ σ, and
    Welford divides per element. One program counts the batch.
    """
    split = tl.program_id(1)
    first = split.to(INDEX) * steps
    offsets, inside = place(first, rows, width, length, ALIGN, LAYOUT, BM, BC)
    value = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
    pivot = over_tile(value, LAYOUT) / positions(first, 1, rows, length, ALIGN, LAYOUT, BM, BC).to(ACC)
    delta = tl.where(inside, value - pivot, 0.0)
    sums, squares = delta, delta * delta
    for step in range(1, steps):
        offsets, inside = place(first + step, rows, width, length, ALIGN, LAYOUT, BM, BC)
        value = tl.load(x + offsets, mask=inside, other=0.0).to(ACC)
        delta = tl.where(inside, value - pivot, 0.0)
        sums += delta
        squares += delta * delta
    total, square = over_tile(sums, LAYOUT), over_tile(squares, LAYOUT)
    count = positions(first, steps, rows, length, ALIGN, LAYOUT, BM, BC)
    shift = total / count.to(ACC)
    mean = pivot + shift
    spread = square - shift * total
    spread = tl.where(spread < 0, 0.0, spread)
    split = split.to(tl.int64)
    store_sums(partials, mean, split, 0, 3, width, ALIGN, LAYOUT, BC)
    store_sums(partials, (pivot - mean) + shift, split, 1, 3, width, ALIGN, LAYOUT, BC)
    store_sums(partials, spread, split, 2, 3, width, ALIGN, LAYOUT, BC)
    if tl.program_id(0) == 0:
        tl.store(counts + split, count.to(tl.float64))
        if num_batches_tracked is not None:
            if split == 0:
                tl.store(num_batches_tracked, tl.load(num_batches_tracked) + 1)

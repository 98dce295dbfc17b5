"""Moments of the batch from those of its parts, programs or processes; and the running statistics take them in."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["parts", "channels", "length"])
def finalize(
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
    parts,
    channels,
    length,
    SINGLE: tl.constexpr,
    POOLED: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """Chan's combination in float64, relative to the first part, in an order that only the shape decides.

    partials is (parts, 3, channels · length): `length` entries belong to a channel (SINGLE: one). Running statistics as
    `tracking.track` has them: t counts this batch already; no momentum at all averages. On the device a
    schedule may set it between replays of a graph.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    there = c < channels
    width = channels.to(tl.int64) * length
    at_channel = c.to(tl.int64) * length
    # A process without samples has no mean: what stands there must not count, not even as NaN times 0.
    base = tl.load(partials + at_channel, mask=there, other=0.0).to(tl.float64)
    base = tl.where(tl.load(counts) > 0, base, 0.0)
    n = tl.zeros([BE, BC], tl.float64)
    shifts = tl.zeros([BE, BC], tl.float64)
    spreads = tl.zeros([BE, BC], tl.float64)
    entries = parts * length
    for start in range(0, entries, BE):
        entry = start + tl.arange(0, BE)
        if SINGLE:  # said when compiling, or the loads would not be coalesced
            part = entry
            at = (part * 3 * width)[:, None] + c.to(tl.int64)[None, :]
        else:
            part = entry // length
            at = (part * 3 * width + (entry - part * length))[:, None] + at_channel[None, :]
        inside = (entry < entries)[:, None] & there[None, :]
        count = tl.load(counts + part, mask=entry < entries, other=0.0)[:, None]
        inside = inside & (count > 0)
        hi = tl.load(partials + at, mask=inside, other=0.0).to(tl.float64)
        lo = tl.load(partials + at + width, mask=inside, other=0.0).to(tl.float64)
        spread = tl.load(partials + at + 2 * width, mask=inside, other=0.0).to(tl.float64)
        delta = tl.where(inside, hi - base[None, :] + lo, 0.0)
        n += tl.where(inside, count, 0.0)
        shifts += count * delta
        spreads += spread + count * delta * delta
    total = tl.sum(n, axis=0)
    total = tl.where(there, total, 1.0)
    shifted = tl.sum(shifts, axis=0)
    m = base + shifted / total
    v = (tl.sum(spreads, axis=0) - shifted * (shifted / total)) / total
    v = tl.where(v < 0, 0.0, v)
    hi = m.to(ACC)
    tl.store(mean + c, hi, mask=there)
    tl.store(mean_lo + c, (m - hi.to(tl.float64)).to(ACC), mask=there)
    tl.store(var + c, v.to(ACC), mask=there)
    if running_mean is not None:
        old_mean = tl.load(running_mean + c, mask=there, other=0.0).to(tl.float64)
        old_var = tl.load(running_var + c, mask=there, other=0.0).to(tl.float64)
        gain = tl.full([], 0.0, tl.float64)
        if momentum is not None:
            gain += tl.load(momentum).to(tl.float64)
        elif fixed_momentum is not None:
            gain += fixed_momentum
        if num_batches_tracked is not None:
            average = 1.0 / tl.load(num_batches_tracked).to(tl.float64)
            if momentum is None and fixed_momentum is None:
                gain = average
            elif POOLED:
                # A momentum of 0 keeps the statistics, also where a schedule sets it.
                gain = tl.where(gain == 0, gain, tl.maximum(gain, average))
        delta = m - old_mean
        if POOLED:
            new_var = (1 - gain) * old_var + gain * v + gain * (1 - gain) * delta * delta
        else:
            new_var = (1 - gain) * old_var + gain * v * (total / tl.maximum(total - 1, 1.0))
        tl.store(running_mean + c, (old_mean + gain * delta).to(running_mean.dtype.element_ty), mask=there)
        tl.store(running_var + c, new_var.to(running_var.dtype.element_ty), mask=there)

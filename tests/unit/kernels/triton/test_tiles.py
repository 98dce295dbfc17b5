"""Tiles cover every element once, know its channel, and count right; also beyond 2³¹ elements."""

import pytest
import torch
from contract.backends import DEVICE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow  # visits every element in Python

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402  # after the skip

from truenorm.kernels.triton.device import tile as device  # noqa: E402  # likewise
from truenorm.kernels.triton.device.tile import channel, place, positions  # noqa: E402  # likewise
from truenorm.kernels.triton.plan import plan_for  # noqa: E402  # likewise

LAYOUTS = {"rows": device.ROWS.value, "flat": device.FLAT.value, "planes": device.PLANES.value}


@triton.jit
def visit(
    visits,
    channels,
    counts,
    rows,
    steps,
    width,
    length,
    ALIGN: tl.constexpr,
    LAYOUT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    INDEX: tl.constexpr,
):
    """One more visit to each element of a program's tiles, its channel, and how many the program should have."""
    first = tl.program_id(1).to(INDEX) * steps
    c = channel(width, length, ALIGN, LAYOUT, BC)
    for step in range(0, steps):
        offsets, inside = place(first + step, rows, width, length, ALIGN, LAYOUT, BM, BC)
        tl.atomic_add(visits + offsets, 1, mask=inside)
        tl.store(channels + offsets, tl.zeros([BM, BC], tl.int32) + c, mask=inside)
    count = positions(first, steps, rows, length, ALIGN, LAYOUT, BM, BC)
    tl.store(counts + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), count.to(tl.int64))


@triton.jit
def far(
    found,
    there,
    tile,
    rows,
    width,
    length,
    ALIGN: tl.constexpr,
    LAYOUT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    INDEX: tl.constexpr,
):
    offsets, inside = place(tl.cast(tile, INDEX), rows, width, length, ALIGN, LAYOUT, BM, BC)
    at = tl.arange(0, BM)[:, None] * BC + tl.arange(0, BC)[None, :]
    tl.store(found + at, offsets)
    tl.store(there + at, inside.to(tl.int8))


def geometry(plan):
    align = plan.align
    return {
        "rows": plan.rows,
        "width": plan.width // align,
        "length": plan.length // align if plan.layout == "planes" else plan.length,
        "ALIGN": align,
        "LAYOUT": LAYOUTS[plan.layout],
        "BM": plan.block_rows,
        "BC": plan.block_columns,
        "INDEX": tl.int64 if plan.wide else tl.int32,
    }


shapes = st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 150))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=shapes, last=st.booleans())
def test_every_element_is_visited_once_and_its_channel_known(shape, last):
    samples, channels, positions = shape
    plan = plan_for(samples, channels, positions, last)
    visits = torch.zeros(samples * channels * positions, dtype=torch.int32, device=DEVICE)
    found = torch.full_like(visits, -1)
    counts = torch.zeros(plan.splits, plan.lanes, dtype=torch.int64, device=DEVICE)
    visit[(plan.lanes, plan.splits)](visits, found, counts, steps=plan.steps, **geometry(plan))
    assert bool((visits == 1).all())
    rows_last = last or positions == 1
    true = torch.arange(channels, dtype=torch.int32, device=DEVICE)
    true = (
        true.expand(samples, positions, channels) if rows_last else true[:, None].expand(samples, channels, positions)
    )
    assert torch.equal(found.view(true.shape), true)
    assert counts.sum(0).tolist() == [samples if plan.layout == "flat" else samples * positions] * plan.lanes
    assert bool((counts > 0).all())


@pytest.mark.parametrize(
    ("shape", "last"),
    [((1 << 14, 64, 1 << 12), True), ((48, 64, 1 << 20), False), ((1 << 20, 64, 49), False), ((1, 2, 1 << 32), False)],
    ids=["rows", "planes", "flat", "one plane beyond 32 bits"],
)
def test_offsets_beyond_31_bits(shape, last):
    """By arithmetic: no such tensor is made. The last tile of the first lane ends at its last element."""
    samples, channels, positions = shape
    assert samples * channels * positions > 2**31
    plan = plan_for(samples, channels, positions, last)
    tiles = plan.splits * plan.steps
    size = plan.block_rows, plan.block_columns
    found = torch.zeros(size, dtype=torch.int64, device=DEVICE)
    there = torch.zeros(size, dtype=torch.int8, device=DEVICE)
    for tile in range(tiles - 1, tiles - 1 - plan.steps, -1):  # some of the last program's may be beyond the end
        far[(1,)](found, there, tile, **geometry(plan))
        if there.any():
            break
    ends = found[there.bool()].tolist()
    expected = {
        "rows": (samples * positions - 1) * channels + plan.block_columns - 1,
        "flat": (samples - 1) * channels * positions + plan.block_columns - 1,
        "planes": (samples - 1) * channels * positions + positions - 1,
    }
    assert max(ends) == expected[plan.layout]
    assert min(ends) >= 0 and len(set(ends)) == len(ends)


def test_programs_are_as_many_as_a_gpu_likes_and_none_is_idle():
    for shape in [
        (256, 64, 3136),
        (256, 2048, 49),
        (64, 512, 1),
        (2, 3, 50_000),
        (1, 1, 2),
        (8, 19, 49),
        (64, 64, 16001),
        (256, 3, 50625),
    ]:
        for last in (False, True):
            plan = plan_for(*shape, last)
            tiles = -(-plan.rows // plan.block_rows)
            if plan.layout == "planes":
                tiles = -(-plan.rows * -(-plan.length // plan.block_columns) // plan.block_rows)
            assert (plan.splits - 1) * plan.steps < tiles <= plan.splits * plan.steps
            programs = plan.splits * plan.lanes
            assert plan.splits == 1 or plan.steps >= 4 or programs <= 2 * 132
            assert programs <= max(132 * 16, plan.lanes)
            assert programs >= min(132, tiles * plan.lanes)
            assert plan.entries * plan.splits <= 256 * 16  # rounds of `finalize`

"""Who does what: how an input is cut into tiles, and tiles are dealt to programs. By its shape alone.

So the order of every sum is the same on all GPUs, and one GPU gives the same bits on each run.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Layout = Literal["rows", "flat", "planes"]
"""As `tile` explains them."""

_TILE = 2048
"""Elements of a tile: with 4 warps 16 a thread, two loads of 16 bytes in half precision."""

_NEIGHBOURS = 64
"""Elements of a tile's row: one line of the cache, 128 bytes, in half precision."""

_MULTIPROCESSORS = 132
"""Of an H100 or H200."""

_PROGRAMS = 16 * _MULTIPROCESSORS
"""Programs to aim at: of the largest kernels four fit on a multiprocessor at once; the last round should be short."""

_TILES_A_PROGRAM = 4
"""At least, once every multiprocessor has two programs: the sums that programs leave behind stay small."""

_FLAT_SAMPLES = 32
"""FLAT leaves sums for each position, which pays with so many samples."""

_SHORT = 64
"""Planes below this fill no tile's row."""

_LONG = 1024
"""Beyond this sums for each position are too many to be combined by the few programs of `finalize`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way through a tensor of (N, C, ...), the same for all kernels.

    Attributes:
        layout: what a tile's row is.
        channels: C.
        rows: rows, positions (ROWS) or samples (FLAT, PLANES).
        width: elements from one row to the next.
        length: elements of a plane; 1 when ROWS.
        align: what width and length are multiples of, 16 at most.
        block_rows, block_columns: of a tile.
        lanes: programs side by side, of columns or of channels.
        splits: programs that share a lane.
        steps: tiles that each of them walks through.
        wide: do numbers of rows, or of positions in a plane, need 64 bits?
    """

    layout: Layout
    channels: int
    rows: int
    width: int
    length: int
    align: int
    block_rows: int
    block_columns: int
    lanes: int
    splits: int
    steps: int
    wide: bool

    @property
    def columns(self) -> int:
        """Sums that a program's split leaves behind: one per channel, when FLAT one per position of each."""
        return self.width if self.layout == "flat" else self.channels

    @property
    def entries(self) -> int:
        """Of them, those of one channel."""
        return self.length if self.layout == "flat" else 1

    @property
    def bits(self) -> int:
        """Bytes that hold a bit for each element of every tile."""
        return self.splits * self.steps * self.lanes * self.block_rows * self.block_columns // 8


@lru_cache(maxsize=4096)
def plan_for(samples: int, channels: int, positions: int, channels_last: bool) -> Plan:
    """The plan for (N, C, L) without empty dimensions.

    Example:
        >>> plan = plan_for(256, 64, 56 * 56, channels_last=True)
        >>> plan.layout, plan.lanes, plan.splits, plan.steps
        ('rows', 1, 2091, 12)
        >>> plan_for(256, 64, 7 * 7, channels_last=False).layout, plan_for(2, 64, 7 * 7, channels_last=False).layout
        ('flat', 'planes')
    """
    if channels_last or positions == 1:
        layout, rows, width, length = "rows", samples * positions, channels, 1
    else:
        short = positions < _SHORT or (positions % 8 != 0 and positions <= _LONG)
        layout = "flat" if short and samples >= _FLAT_SAMPLES else "planes"
        rows, width, length = samples, channels * positions, positions
    block_columns = min(_NEIGHBOURS, max(8, _power_of_two(length if layout == "planes" else width)))
    all_rows = rows * -(-length // block_columns) if layout == "planes" else rows
    block_rows = min(_TILE // block_columns, _power_of_two(all_rows))
    lanes = channels if layout == "planes" else -(-width // block_columns)
    tiles = -(-all_rows // block_rows)
    few = min(tiles, 2 * _MULTIPROCESSORS // lanes)
    splits = max(1, few, min(_PROGRAMS // lanes, tiles // _TILES_A_PROGRAM))
    steps = -(-tiles // splits)
    splits = -(-tiles // steps)
    return Plan(
        layout=layout,
        channels=channels,
        rows=rows,
        width=width,
        length=length,
        align=_alignment(width, length, layout),
        block_rows=block_rows,
        block_columns=block_columns,
        lanes=lanes,
        splits=splits,
        steps=steps,
        wide=max((splits * steps + 1) * block_rows, length + block_columns) >= 2**31,
    )


def _power_of_two(size: int) -> int:
    """The next one."""
    return 1 << (size - 1).bit_length()


def _alignment(width: int, length: int, layout: Layout) -> int:
    """Of the numbers that addresses are made of, the largest common power of two up to 16."""
    number = width | length if layout == "planes" else width
    return min(16, number & -number)

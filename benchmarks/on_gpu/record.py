"""Rows in a file that every process appends to and reads, and the time that is left.

The file is all that the processes share: what one has begun or found is there for the next, whatever became
of the one that wrote it.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, row: Row) -> None:
        """Written at once and in one piece, so that processes can append to the same file."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def begun(self, worker: str | None = None) -> list[str]:
        """Cases in the order in which they were begun, all or a worker's."""
        rows = of_kind(self.rows(), "begin", **({} if worker is None else {"worker": worker}))
        return [row["case"] for row in rows]

    def rows(self) -> list[Row]:
        """All that is there; a line that is torn is left out."""
        if not self.path.exists():
            return []
        found: list[Row] = []
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "kind" in row:
                found.append(row)
        return found


class Deadline:
    """A moment in wall-clock time, which means the same in every process."""

    def __init__(self, at: float, clock: Callable[[], float] = time.time) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.time) -> "Deadline":
        return cls(clock() + seconds, clock)

    def left(self) -> float:
        return self.at - self.clock()

    def within(self, seconds: float) -> "Deadline":
        """This one, or so many seconds from now, whichever comes first."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)


def first_line(error: BaseException) -> str:
    """Type and first line of an error, short enough for a row."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def of_kind(rows: Iterable[Row], kind: str, **values: Any) -> list[Row]:
    """Rows of a kind in which these columns hold these values."""
    return [row for row in rows if row["kind"] == kind and all(row.get(key) == value for key, value in values.items())]


def _plain(value: Any) -> Any:
    """Figures with the digits that count; JSON has no word for those that are none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value

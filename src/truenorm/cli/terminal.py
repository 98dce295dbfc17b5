"""The terminal: tables wide enough to read, and bars with the time left."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:  # what shows a record need not import what makes one
    from truenorm.lab.jobs.runner import Progress as OnProgress

WIDE = 150
"""Columns of output that no terminal cuts: files and pipes."""


def console(*, stderr: bool = False) -> Console:
    """Standard output (or error) through rich."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=WIDE)


@contextmanager
def bars(*, percent: bool = False) -> "Generator[OnProgress]":
    """A bar for the work that is on; nothing where standard error is no terminal.

    Args:
        percent: show how much is done in percent, not as a count.
    """
    output = console(stderr=True)
    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(),
        TaskProgressColumn() if percent else MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=output, transient=True, disable=not output.is_terminal) as progress:
        tasks: dict[int, object] = {}
        shown = 0.0

        def on_progress(what: str, done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.1 and done < total:
                return  # a step may take less than drawing does
            shown = now
            if total not in tasks:
                tasks[total] = progress.add_task(what, total=total)
            progress.update(tasks[total], description=what, completed=done)  # pyright: ignore[reportArgumentType]  # a TaskID

        yield on_progress

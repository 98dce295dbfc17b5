"""The order of things: which processes run when, for how long, and what is said in between."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from on_gpu import summary
from on_gpu.record import Deadline, Record, first_line, of_kind

_GRACE = 6.0
"""Seconds a process has to end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One after the other; the processes of one run side by side."""

    name: str
    seconds: float | None
    """The most it may take; None: what is left."""
    workers: tuple[tuple[str, int], ...]
    """Names, and how many of each."""
    least: float = 12.0
    """With less than this left it is not begun."""


def planned(*, deadline: float, early_endtoend: bool, cores: int) -> list[Section]:
    """The sections; their times are meant for 450 s, and shrink or grow with the deadline."""
    scale = deadline / 450
    alike = max(1, min(12, cores - 4))
    prepare = Section(name="prepare", seconds=120 * scale, workers=(("prepare", alike), ("prepare-endtoend", 1)))
    large = Section(name="large", seconds=35 * scale, workers=(("large", 1),))
    kernels = Section(name="kernels", seconds=120 * scale, workers=(("kernels", 1),))
    rest = Section(name="rest", seconds=None if early_endtoend else 80 * scale, workers=(("rest", 1),))
    endtoend = Section(
        name="endtoend", seconds=110 * scale if early_endtoend else None, workers=(("endtoend", 1),), least=25
    )
    return [prepare, large, kernels, *([endtoend, rest] if early_endtoend else [rest, endtoend])]


class Process:
    """A worker in a group of its own, so that it ends with what it has started."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("a") as said:
            self.process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                process_group=0,
            )

    def ended(self) -> int | None:
        """The exit status; None: it runs."""
        return self.process.poll()

    def stop(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Launch = Callable[[Sequence[str], Path, dict[str, str]], Process]


def measure(
    command: Sequence[str],
    record: Record,
    deadline: Deadline,
    *,
    early_endtoend: bool = False,
    only: Sequence[str] | None = None,
    cores: int = 4,
    launch: Launch = Process,
    pause: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> None:
    """All sections, tables after each, and everything that was found written at every turn.

    Args:
        command: starts this program anew; what a worker is to do is added.
        record: what the processes write into.
        deadline: of everything.
        early_endtoend: training steps before the cases that only complete the picture.
        only: sections by name; None: all.
        cores: of the machine.
        launch, pause, say: for tests.
    """
    say(summary.environment_line(record.rows()))
    whole = deadline.left()
    try:
        for section in planned(deadline=whole, early_endtoend=early_endtoend, cores=cores):
            if only is not None and section.name not in only:
                continue
            start = deadline.left()
            if start - _GRACE < section.least:
                say(f"skipped: {section.name}, {start:.0f} s were left")
                row = {"kind": "skipped", "section": section.name, "count": 1, "first": f"{start:.0f} s were left"}
                record.add(row)
                continue
            allowed = deadline.within(start - _GRACE)
            if section.seconds is not None:
                allowed = allowed.within(section.seconds)
            _run(section, command, record, allowed, launch, pause)
            rows = record.rows()
            say(f"\n=== {section.name}: {start - deadline.left():.0f} s, {deadline.left():.0f} s left\n")
            for row in of_kind(rows, "skipped", section=section.name):
                say(f"skipped: {row['count']} cases, from: {row['first']}")
            for row in of_kind(rows, "process", section=section.name):
                say(f"a process ended: {row['error']}")
            say(_told(lambda rows=rows, name=section.name: summary.section(rows, name)))
            write(record)
    finally:
        last = write(record)
        say(f"\n=== all, {deadline.left():.0f} s left\n\n{last}")


def _run(
    section: Section,
    command: Sequence[str],
    record: Record,
    deadline: Deadline,
    launch: Launch,
    pause: Callable[[float], None],
) -> None:
    """Start the section's processes, start anew what ends by an error, stop what does not end."""
    log = record.path.with_name("log.txt")
    waiting = [(name, index, of, 2) for name, of in section.workers for index in range(of)]
    running: list[tuple[Process, str, int, int, int]] = []
    try:
        while waiting or running:
            for name, index, of, restarts in waiting:
                arguments = ["--worker", name, "--index", str(index), "--of", str(of), "--until", str(deadline.at)]
                # One of many compiles by itself; alone it may have the machine.
                environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"} if of > 1 else {}
                running.append((launch([*command, *arguments], log, environment), name, index, of, restarts))
            waiting = []
            still = []
            for process, name, index, of, restarts in running:
                status = process.ended()
                if status is None and deadline.left() > -_GRACE / 2:
                    still.append((process, name, index, of, restarts))
                elif status is None:
                    process.stop()
                    _ended(record, section, f"{name} {index}", "was stopped at its time limit")
                elif status != 0:
                    again = restarts > 0 and deadline.left() > 15
                    what = f"ended with status {status}{', started again' if again else ''}"
                    _ended(record, section, f"{name} {index}", what)
                    if again:
                        waiting.append((name, index, of, restarts - 1))
            running = still
            if running and not waiting:
                pause(0.1)
    finally:
        for process, *_ in running:
            process.stop()


def _ended(record: Record, section: Section, worker: str, what: str) -> None:
    begun = record.begun(worker)
    last = f" (begun last: {begun[-1]})" if begun else ""
    record.add({"kind": "process", "section": section.name, "error": f"{worker} {what}{last}"})


def write(record: Record) -> str:
    """Tables of what there is by now: whatever comes after, they stay. Gives the short ones."""
    rows = record.rows()
    short = _told(lambda: summary.short(rows))
    record.path.with_name("summary.txt").write_text(short)
    record.path.with_name("performance.md").write_text(_told(lambda: summary.document(rows)))
    return short


def _told(tell: Callable[[], str]) -> str:
    """A table that cannot be made of the rows is no reason to lose the next ones: `--tables` makes it later."""
    try:
        return tell()
    except Exception as error:  # `--tables` makes them later
        return f"no tables: {first_line(error)}\n"

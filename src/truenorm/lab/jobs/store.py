"""The folder of trials: which are finished, which are running, and which process runs them.

NAME.json    a finished trial: a record of its own
NAME.pt      a running trial, as it was after its last epoch
NAME.lock    held by the process that runs it; the system frees it when that process ends, however it ends
"""

import pickle
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import torch

from truenorm.errors import InvalidRecord, extra
from truenorm.files import ensure_writable, write_whole
from truenorm.record import Record

KEEP_EVERY = 20.0
"""Seconds of training that a kill may cost, at least an epoch: writing more often would slow short epochs."""

_POLL = 0.5
"""Seconds between two looks at a lock that another process holds."""


@dataclass
class Store:
    """Finished and running trials, by name; several processes may share the folder.

    Args:
        folder: made if it is not there.
        keep_every: seconds between two saved states of a running trial.

    Raises:
        InvalidInput: the folder cannot be written to.
        MissingExtra: filelock is not installed.
    """

    folder: Path
    keep_every: float = KEEP_EVERY
    _finished: dict[str, Record] = field(default_factory=dict[str, Record])

    def __post_init__(self) -> None:
        with extra("lab"):  # missed now, not after the first training
            import_module("filelock")
        ensure_writable(self.folder)

    def finished(self, name: str) -> Record | None:
        """The record of a trial that is finished, by whichever process.

        Raises:
            InvalidRecord: its file is damaged.
        """
        if name not in self._finished:
            file = self.folder / f"{name}.json"
            if not file.exists():
                return None
            try:
                self._finished[name] = Record.load(file)
            except InvalidRecord as error:
                raise InvalidRecord(f"{error} (delete the file, and the trial runs again)") from error
        return self._finished[name]

    def finish(self, name: str, record: Record) -> None:
        """Put a finished trial on disk; the states that were saved while it ran are deleted."""
        record.save(self.folder / f"{name}.json")
        self._finished[name] = record
        (self.folder / f"{name}.pt").unlink(missing_ok=True)
        for cut_short in self.folder.glob(f".{name}.*"):  # what a process was writing when it was killed
            cut_short.unlink()

    @contextmanager
    def claimed(self, name: str, *, timeout: float = 0) -> Generator[bool]:
        """Be the only process at this trial for a block; False where another is.

        Args:
            name: of the trial.
            timeout: seconds to wait for the other; −1: as long as it takes.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / f"{name}.lock")
        try:
            lock.acquire(timeout=timeout, poll_interval=_POLL)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
            if (self.folder / f"{name}.json").exists():
                # Whoever waits for it finds the trial finished, whichever file it has locked by then.
                (self.folder / f"{name}.lock").unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Be the only process in such a block."""
        from filelock import FileLock

        with FileLock(self.folder / "record.lock", poll_interval=0.05):
            yield

    def running(self, name: str) -> "RunningTrial":
        """What is kept of a trial between its epochs.

        Raises:
            InvalidRecord: its file is damaged.
        """
        return RunningTrial(self.folder / f"{name}.pt", self.keep_every)


class RunningTrial:
    """The file of a trial between two epochs.

    Args:
        file: of its state.
        every: seconds that pass at least between two writings.

    Attributes:
        saved: the state of the last epoch that was kept, on the CPU; None where nothing was.

    Raises:
        InvalidRecord: the file is damaged.
    """

    def __init__(self, file: Path, every: float) -> None:
        self._file, self._every = file, every
        self._last = time.monotonic()
        self.saved = _read(file) if file.exists() else None

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write the state, if the last writing is long enough ago."""
        if time.monotonic() - self._last < self._every:
            return
        whole = BytesIO()
        torch.save(dict(state), whole)
        write_whole(self._file, whole.getvalue())
        self._last = time.monotonic()


def _read(file: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, BadZipFile, pickle.UnpicklingError):
        state = None
    if not isinstance(state, dict) or "training" not in state:
        raise InvalidRecord(
            f"{file}: the state of a running trial cannot be read; delete the file, and the trial starts over"
        )
    return cast(Mapping[str, Any], state)

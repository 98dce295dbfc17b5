"""Work done once, job by job, by however many processes share the folder, whatever happens to them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from truenorm.lab.study.store import Store
from truenorm.record import Record

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

SAVE_EVERY = 5.0
"""Seconds between two writings of the whole record, at least."""

_PATIENCE = 5.0


class Job(Protocol):
    """One training, say: a pure function of what its name tells. `str` of it is what progress says."""

    @property
    def name(self) -> str:
        """Of its files; whatever its outcome depends on gives it another one."""
        ...

    @property
    def steps(self) -> int:
        """How much work it is."""
        ...

    def do(self, store: Store, on_step: Callable[[], None]) -> Record:
        """Its record; `on_step` is called as many times as there are steps, or fewer."""
        ...


class Work:
    """Jobs done one list after the other, and how far all of it is.

    Args:
        store: where they are kept.
        total: steps in all.
        progress: called as work goes on.
    """

    def __init__(self, store: Store, total: int, progress: Progress) -> None:
        self._store, self._total, self._progress = store, total, progress
        self._done = 0

    def finished(self, jobs: Sequence[Job]) -> int:
        """How many of them are."""
        return sum(self._store.finished(job.name) is not None for job in jobs)

    def do(self, jobs: Sequence[Job], ended: Callable[[Job], None] = lambda job: None) -> None:
        """Do those that are not done; `ended` is called with each that is finished."""
        over = self._done

        def start(job: Job) -> Callable[[], None]:
            begun = over

            def step() -> None:
                nonlocal begun
                begun += 1
                self._progress(str(job), min(begun, over + job.steps), self._total)

            return step

        def end(job: Job) -> None:
            nonlocal over
            over += job.steps
            self._progress(str(job), over, self._total)
            ended(job)

        share(jobs, self._store, start=start, ended=end)
        self._done = over


class Keeper:
    """Writes the record as jobs end, though not so often that a large one is mostly being written.

    Args:
        file: of the record.
        joined: gives the record of all that is finished.
        store: whose processes write the same file.
    """

    def __init__(self, file: Path, joined: Callable[[], Record], store: Store) -> None:
        self._file, self._joined, self._store = file, joined, store
        self._unsaved = False
        self._next = 0.0

    def ended(self, job: Job) -> None:
        """To be called with each job that is finished."""
        self._unsaved = True
        if time.monotonic() >= self._next:
            self.save()

    def save_what_ended(self) -> None:
        """To be called where work is broken off."""
        if self._unsaved:
            self.save()

    def save(self) -> Record:
        """Write it now."""
        begun = time.monotonic()
        with self._store.alone():  # or two processes would put their records in the wrong order
            record = self._joined()
            record.save(self._file)
        now = time.monotonic()
        self._unsaved, self._next = False, now + max(SAVE_EVERY, 20 * (now - begun))
        return record


def share(
    jobs: Sequence[Job],
    store: Store,
    *,
    start: Callable[[Job], Callable[[], None]],
    ended: Callable[[Job], None],
) -> None:
    """Do every job that is not done; those that another process is at are left to it, and waited for.

    Args:
        jobs: in the order to do them.
        store: where they are kept.
        start: called with a job that this process does; gives what each of its steps calls.
        ended: called with each job that is finished, by whichever process.
    """
    left = list(jobs)
    patience = 0.0  # seconds to wait for another process
    while left:
        others: list[Job] = []
        for job in left:
            if store.finished(job.name) is None:
                # Not twice: another process may have finished it between the look and the lock.
                with store.claimed(job.name, timeout=patience) as mine:
                    if mine and store.finished(job.name) is None:
                        store.finish(job.name, job.do(store, start(job)))
                patience = 0.0
            if store.finished(job.name) is None:
                others.append(job)
            else:
                ended(job)
        # All that is left is in other hands: wait, and look round again, since one of them may have died.
        patience = _PATIENCE if len(others) == len(left) else 0.0
        left = others


@contextmanager
def alongside(num: int, work: Callable[..., object], *arguments: object) -> Generator[None]:
    """So many more processes that do the same work while the block lasts; they may die, the work is done.

    Args:
        num: of processes.
        work: a function of a module, to be called in each with the arguments.
        arguments: anything that pickles.
    """
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_quietly, args=(work, *arguments), daemon=True) for _ in range(num)]
    try:
        with _uninterrupted():  # and so will they be: Ctrl-C is the first process's to answer, and it ends them
            for other in others:
                other.start()
        yield
        for other in others:
            other.join()
    finally:
        for other in others:
            if other.is_alive():
                other.terminate()
                other.join()


@contextmanager
def _uninterrupted() -> Generator[None]:
    """No Ctrl-C for a block, nor ever for processes that begin in it; of threads only the first can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answered = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, answered)


def _quietly(work: Callable[..., object], *arguments: object) -> None:
    """Do the work for as long as the first process is there: however it ends, this one does."""
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    work(*arguments)


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)

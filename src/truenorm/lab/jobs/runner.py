"""Run a plan: each job once, by whatever executes them; what is finished stays, whatever happens to the process."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from truenorm.lab.jobs.job import Job, OnStep
from truenorm.lab.jobs.plan import Plan
from truenorm.lab.jobs.store import Store
from truenorm.record import Record

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Resumed = Callable[[int, int], None]
"""Called with how many jobs were finished before, of how many."""

SAVE_EVERY = 5.0
"""Seconds between two writings of the whole record, at least."""

_PATIENCE = 5.0


Start = Callable[[Job], OnStep]
"""Called with a job that this process begins; returns what each of its steps calls."""

Ended = Callable[[Job], None]
"""Called with each job that is finished, by whichever process."""

Helpers = Callable[[int], AbstractContextManager[None]]
"""The number of unfinished jobs → a block during which other processes or machines work on them, too."""


def share(jobs: Sequence[Job], store: Store, start: Start, ended: Ended) -> None:
    """Do every unfinished job in this process; wait for those that another process is running."""
    remaining = list(jobs)
    patience = 0.0  # seconds to wait for another process
    while remaining:
        locked: list[Job] = []
        for job in remaining:
            if store.finished(job.name) is None:
                # Not twice: another process may have finished it between the look and the lock.
                with store.claimed(job.name, timeout=patience) as mine:
                    if mine and store.finished(job.name) is None:
                        store.finish(job.name, job.do(store, start(job)))
                patience = 0.0
            if store.finished(job.name) is None:
                locked.append(job)
            else:
                ended(job)
        # Other processes run all that remains: wait, and look again, because one of them may have died.
        patience = _PATIENCE if len(locked) == len(remaining) else 0.0
        remaining = locked


def run(
    plan: Plan,
    store: Store,
    empty: Record,
    *,
    helpers: Helpers = lambda unfinished: nullcontext(),
    progress: Progress = lambda what, done, total: None,
    resumed: Resumed = lambda finished, total: None,
) -> Record:
    """Do all jobs of a plan; write the record beside the store's folder, now and then and at the end.

    Args:
        plan: what to do.
        store: where finished jobs are kept: they are not done again.
        empty: the record's header.
        helpers: what works on the jobs beside this process; nothing, unless given.
        progress: called as work goes on.
        resumed: called once if jobs were finished before.

    Returns:
        the complete record.
    """
    work = _Work(store, plan.steps, progress)
    total = plan.total(store)
    finished = sum(store.finished(job.name) is not None for job in [*plan.tuning, *plan.final(store)])
    if finished:
        resumed(finished, total)
    with helpers(total - finished):
        work.do(plan.tuning)
        final = plan.final(store)
        recorder = _Recorder(plan, store, empty, [*(plan.tuning if plan.reports_tuning else ()), *final])
        try:
            work.do(final, recorder.ended)
        except BaseException:  # Ctrl-C, too
            recorder.save_unsaved()
            raise
        return recorder.save()


class _Work:
    """Lists of jobs done one after the other, and how far all of it is."""

    def __init__(self, store: Store, total: int, progress: Progress) -> None:
        self._store, self._total, self._progress = store, total, progress
        self._done = 0

    def do(self, jobs: Sequence[Job], ended: Ended = lambda job: None) -> None:
        def start(job: Job) -> OnStep:
            reached = self._done

            def step() -> None:
                nonlocal reached
                reached += 1
                self._progress(str(job), min(reached, self._done + job.condition.steps), self._total)

            return step

        def end(job: Job) -> None:
            self._done += job.condition.steps
            self._progress(str(job), self._done, self._total)
            ended(job)

        share(jobs, self._store, start, end)


class _Recorder:
    """Writes the record as jobs end, but rarely enough that a large record does not slow the work."""

    def __init__(self, plan: Plan, store: Store, empty: Record, jobs: Sequence[Job]) -> None:
        self._plan, self._store, self._empty, self._jobs = plan, store, empty, jobs
        self._file = store.folder.parent / "record.json"
        self._unsaved = False
        self._next = 0.0

    def ended(self, job: Job) -> None:
        self._unsaved = True
        if time.monotonic() >= self._next:
            self.save()

    def save_unsaved(self) -> None:
        if self._unsaved:
            self.save()

    def save(self) -> Record:
        begun = time.monotonic()
        with self._store.alone():  # or two processes would write their records in the wrong order
            record = self._joined()
            record.save(self._file)
        now = time.monotonic()
        self._unsaved, self._next = False, now + max(SAVE_EVERY, 20 * (now - begun))
        return record

    def _joined(self) -> Record:
        """One record of the finished jobs, in the order of the plan, whichever ended first."""
        records = [record for job in self._jobs if (record := self._store.finished(job.name)) is not None]
        joined = replace(
            self._empty,
            rows=tuple(row for record in records for row in record.rows),
            class_counts=tuple(matrix for record in records for matrix in record.class_counts),
            trials={name: trial for record in records for name, trial in record.trials.items()},
            complete=len(records) == len(self._jobs),
        )
        joined = self._plan.describe(joined, self._plan.rates(self._store))
        machines = {str(sorted(record.machine.items())) for record in records}
        several = (f"run on {len(machines)} different machines",) if len(machines) > 1 else ()
        return replace(joined, notes=(*joined.notes, *several))

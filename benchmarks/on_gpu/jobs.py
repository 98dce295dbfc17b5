"""Jobs, what they work with, and how a process goes through them."""

import gc
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch

from on_gpu import plan
from on_gpu.peers import Case
from on_gpu.record import Deadline, Record, Row, first_line
from on_gpu.timing import CudaStopwatch, DeviceLost, Stopwatch, WallStopwatch, check_device
from truenorm.kernels import BACKENDS, Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case by name, and what makes its rows."""

    name: str
    run: Callable[[], Iterable[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What jobs work with."""

    device: str
    record: Record
    deadline: Deadline
    stopwatch: Stopwatch
    worker: str = ""

    @classmethod
    def on(cls, device: str, record: Record, deadline: Deadline, worker: str = "") -> "Bench":
        stopwatch: Stopwatch = CudaStopwatch() if device == "cuda" else WallStopwatch()
        return cls(device=device, record=record, deadline=deadline, stopwatch=stopwatch, worker=worker)

    @property
    def backend(self) -> Backend | None:
        """Ours; torch's in its place where there is no GPU; None where ours could not be imported."""
        return BACKENDS.get("triton") if self.device == "cuda" else BACKENDS["aten"]

    @property
    def first(self) -> list[Case]:
        """What is timed first; in a rehearsal a few small ones."""
        return plan.timed_first() if self.device == "cuda" else plan.timed_first(batch=1)[-3:]

    @property
    def rest(self) -> list[Case]:
        return plan.timed_rest() if self.device == "cuda" else plan.timed_rest(batch=1)[9:60:12]


def work(jobs: Iterable[Job], bench: Bench, section: str, *, least: float = 3.0) -> None:
    """Job after job until the time is up; what fails is a row, and what was begun before is not begun again.

    Raises:
        DeviceLost: nothing more can be run in this process.
    """
    begun = set(bench.record.begun())
    skipped: list[str] = []
    for job in jobs:
        if job.name in begun:
            continue
        if bench.deadline.left() < least:
            skipped.append(job.name)
            continue
        bench.record.add({"kind": "begin", "case": job.name, "worker": bench.worker})
        start = time.perf_counter()
        try:
            for row in job.run():
                bench.record.add(row)
        except DeviceLost:
            raise
        except Exception as error:  # a failure is a row, not the end of the run
            bench.record.add({"kind": "error", "section": section, "case": job.name, "error": first_line(error)})
            check_device(bench.stopwatch, error)
        finally:
            _free(bench.device)
        if (taken := time.perf_counter() - start) > 10:
            bench.record.add({"kind": "slow", "case": job.name, "seconds": round(taken, 1)})
    if skipped:
        row = {"kind": "skipped", "section": section, "count": len(skipped), "first": skipped[0]}
        bench.record.add(row)


def _free(device: str) -> None:
    """Graphs keep their memory to themselves until they are gone and the cache is emptied."""
    gc.collect()
    if device == "cuda":
        with suppress(Exception):  # a lost device is somebody else's error
            torch.cuda.empty_cache()

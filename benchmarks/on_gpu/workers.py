"""What the processes do, by name: an error of the device ends a process, not the measurement."""

import gc

import torch

from on_gpu import endtoend
from on_gpu.jobs import Bench, work
from on_gpu.machine import clocks
from on_gpu.measuring import decisive, timed
from on_gpu.preparing import large, prepare, prepare_endtoend


def run_worker(name: str, bench: Bench, *, index: int = 0, of: int = 1) -> None:
    """The worker of that name; of several alike, the index-th."""
    gc.collect()
    gc.freeze()  # what was imported is not looked through again at every collection
    if bench.device == "cpu":
        torch.set_num_threads(1)
    if name == "endtoend":
        bench.record.add(clocks(name))
        endtoend.measure(bench.backend, bench.device, bench.record, bench.deadline)
        return
    jobs = {
        "prepare": lambda: list(prepare(bench))[index::of],
        "prepare-endtoend": lambda: prepare_endtoend(bench),
        "large": lambda: large(bench),
        "kernels": lambda: decisive(bench),
        "rest": lambda: timed(bench, bench.rest),
    }[name]()
    if name in ("kernels", "rest"):
        bench.record.add(clocks(name))
    work(jobs, bench, name)
    if name in ("kernels", "rest"):
        bench.record.add(clocks(name))

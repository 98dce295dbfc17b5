"""Correctness, and everything compiled before anything is timed."""

from collections.abc import Iterable, Iterator

import torch

from on_gpu import correctness, endtoend, peers, plan, special
from on_gpu.jobs import Bench, Job
from on_gpu.peers import Buffers, Case
from on_gpu.record import Row
from on_gpu.timing import check_device
from truenorm.kernels import Backend


def prepare(bench: Bench) -> Iterator[Job]:
    """Correctness, and everything compiled once: what comes out stays on disk for the process that times.

    First what is timed first, at its own shapes; then what tells most.
    """
    first, rest = bench.first, bench.rest
    yield from _checks(bench, dict.fromkeys(map(plan.at_timed_shape, first)))
    yield from _compiling(bench, first)
    if bench.backend is not None:
        for name in special.CHECKS:
            yield Job(name=name, run=lambda name=name: [special.special(name, bench.backend, bench.device)])
    yield from _checks(bench, plan.compared())
    yield from _checks(bench, dict.fromkeys(map(plan.at_timed_shape, rest)))
    yield from _compiling(bench, rest)
    yield from _checks(bench, plan.compared_too())


def _checks(bench: Bench, cases: Iterable[correctness.Case]) -> Iterator[Job]:
    backend = bench.backend
    if backend is None:
        return
    for case in cases:
        yield Job(name=case.key, run=lambda case=case: _checked(case, backend, bench))


def _checked(case: correctness.Case, backend: Backend, bench: Bench) -> Iterator[Row]:
    row = correctness.check(case, backend, bench.device)
    yield row
    if row["error"]:
        check_device(bench.stopwatch, RuntimeError(row["error"]))


def _compiling(bench: Bench, cases: Iterable[Case]) -> Iterator[Job]:
    done: set[tuple[object, ...]] = set()
    for case in cases:
        # forward alone runs the same graph as with backward
        passed = case.passed if case.passed in ("inference", "frozen") else "forward+backward"
        what = (case.dtype, case.layout, case.shape, case.fusion, passed)
        if what not in done:
            done.add(what)
            name = f"compile {' '.join(what)}"
            yield Job(name=name, run=lambda case=case, passed=passed: _compile(case, passed, bench))


def _compile(case: Case, passed: str, bench: Bench) -> list[Row]:
    whole = Case(
        dtype=case.dtype, layout=case.layout, shape=case.shape, size=case.size, fusion=case.fusion, passed=passed
    )
    layer = peers.compiled(case.fusion, passed not in ("inference", "frozen"))
    Buffers(whole, bench.device, sets=1).call(layer)(0)
    return []


def prepare_endtoend(bench: Bench) -> Iterator[Job]:
    """The compiled networks, one step each."""
    for mode in endtoend.modes(bench.backend):
        if mode.compiled:
            yield Job(name=f"prepare {mode.name}", run=lambda mode=mode: _prepared(mode.name, bench))


def _prepared(name: str, bench: Bench) -> list[Row]:
    endtoend.prepare(name, bench.backend, bench.device)
    return []


def large(bench: Bench) -> Iterator[Job]:
    """Tensors of more than 2³¹ elements, where there is the memory."""
    needed = 45e9
    free = torch.cuda.mem_get_info()[0] if bench.device == "cuda" else 0
    if free < needed:
        why = f"{free / 1e9:.0f} GB free, {needed / 1e9:.0f} needed"
        bench.record.add({"kind": "skipped", "section": "large", "count": 2, "first": why})
        return
    yield from _checks(bench, plan.beyond_32_bits())

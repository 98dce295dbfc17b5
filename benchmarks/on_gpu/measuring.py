"""What is timed, and the rows that come of it."""

import time
from collections.abc import Callable, Iterable, Iterator

from on_gpu import peers, split
from on_gpu.jobs import Bench, Job
from on_gpu.peers import Buffers, Case
from on_gpu.record import Row, first_line
from on_gpu.shapes import kernel_floor_bytes
from on_gpu.timing import COLD_BYTES, Timing, check_device, compare
from on_gpu.verdicts import sound

_COMPILING_SHARE = 0.3
"""Of a worker's time; past it, cases go on without torch.compile."""

_CALIBRATED = (12_800_000, 25_700_000, 51_400_000, 102_800_000, 411_000_000, 1_644_000_000)
"""Bytes of a tensor: the activations of the network, and what all sweeps over the largest come to."""


def decisive(bench: Bench) -> Iterator[Job]:
    """What is looked at first."""
    yield from calibrate(bench)
    yield from timed(bench, bench.first)
    yield from splits(bench)
    yield from names(bench)


def calibrate(bench: Bench) -> Iterator[Job]:
    """What the memory gives: a copy and a sum, out of the cache and not."""
    for num_bytes in _CALIBRATED if bench.device == "cuda" else _CALIBRATED[:1]:
        yield Job(name=f"calibrate {num_bytes}", run=lambda num_bytes=num_bytes: _calibrated(num_bytes, bench))


def _calibrated(num_bytes: int, bench: Bench) -> Iterator[Row]:
    moved = {"copy": 2 * num_bytes, "read": num_bytes}
    makers = {"copy": peers.copy, "read": peers.read}
    calls = {
        f"{what} {temperature}": makers[what](moved[what], bench.device, cold=temperature == "cold")
        for what in makers
        for temperature in ("cold", "warm")
    }
    sets = max(3, -(-2 * COLD_BYTES // num_bytes))
    for name, found in compare(calls, sets=sets, stopwatch=bench.stopwatch).items():
        what, temperature = name.split()
        row: Row = {"kind": "calibrate", "what": what, "temperature": temperature, "bytes": moved[what]}
        yield row | _figures(found, moved[what])


def names(bench: Bench) -> Iterator[Job]:
    """Which kernels torch takes for a bf16 and for a fp16 call: whether cuDNN is among them."""
    for dtype in ("bf16", "fp16", "fp32"):
        for layout in ("NHWC", "NCHW"):
            yield Job(
                name=f"names {dtype} {layout}",
                run=lambda dtype=dtype, layout=layout: _named(dtype, layout, bench),
            )


def _named(dtype: str, layout: str, bench: Bench) -> list[Row]:
    case = Case(
        dtype=dtype, layout=layout, shape="256 @14", size=(64, 256, 14, 14), fusion="relu", passed="forward+backward"
    )
    call = Buffers(case, bench.device, sets=1).call(peers.eager("relu", True))
    call(0)
    seen = split.kernels_of(lambda: call(0)) if bench.device == "cuda" else []
    return [{"kind": "names", "dtype": dtype, "layout": layout, "kernels": [name[:160] for name, _ in seen]}]


def timed(bench: Bench, cases: Iterable[Case]) -> Iterator[Job]:
    """All implementations of each case, in turn."""
    rows = bench.record.rows()
    compiling = _Share(bench.deadline.left() * _COMPILING_SHARE)
    for case in cases:
        yield Job(name=case.key, run=lambda case=case: measured(case, bench, rows, compiling))


class _Share:
    """Seconds that may be spent on something."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def spend(self, run: Callable[[], object]) -> None:
        start = time.perf_counter()
        try:
            run()
        finally:
            self.left -= time.perf_counter() - start


def measured(case: Case, bench: Bench, rows: list[Row], compiling: _Share) -> Iterator[Row]:
    """The rows of one case: every implementation, and a copy of the floor's bytes."""
    buffers = Buffers(case, bench.device, sets=None if bench.device == "cuda" else 1)
    backend = bench.backend
    failed: dict[str, str] = {} if backend is not None else {"ours": "there is no such backend"}
    found = peers.layers(case, backend)
    if backend is not None and (refusal := backend.refusal(buffers.x[0])):
        failed["ours"] = f"refused: {refusal}"
    if compiling.left > 0:
        try:
            compiling.spend(lambda: buffers.call(found["compile"])(0))
        except Exception as error:  # a failure is a row, not the end of the run
            failed["compile"] = first_line(error)
            check_device(bench.stopwatch, error)
    else:
        failed["compile"] = "skipped: its share of the time is spent"
    layers = {name: layer for name, layer in found.items() if name not in failed}
    if case.temperature == "warm":
        calls = {name: buffers.after_producer(layer) for name, layer in layers.items()}
        calls["producer"] = buffers.after_producer(None)
    else:
        calls = {name: buffers.call(layer) for name, layer in layers.items()}
        calls["copy"] = peers.copy(case.floor, bench.device, cold=bench.device == "cuda")
    times = compare(calls, sets=buffers.sets, stopwatch=bench.stopwatch)
    producer = times.pop("producer", None)
    if isinstance(producer, Timing):
        times = {name: _less(time, producer) for name, time in times.items()}
    yield from kernel_rows(case, times | failed, ours_ok=sound(rows, case))


def kernel_rows(case: Case, times: dict[str, Timing | str], *, ours_ok: bool) -> list[Row]:
    """Times as rows, with what each is to the others; an error is a row without times."""
    ours = times.get("ours")
    rows: list[Row] = []
    for name, found in times.items():
        row: Row = {
            "kind": "kernel",
            "case": case.key,
            "dtype": case.dtype,
            "layout": case.layout,
            "shape": case.shape,
            "size": list(case.size),
            "fusion": case.fusion,
            "pass": case.passed,
            "temperature": case.temperature,
            "impl": name,
            "bytes_floor": case.floor,
        }
        row |= _figures(found, case.floor)
        row["ok"] = row["ok"] and (ours_ok or name != "ours")
        if isinstance(found, Timing) and isinstance(copied := times.get("copy"), Timing):
            row["ratio_copy"] = copied.p50 / found.p50
        if found is ours and isinstance(ours, Timing):
            for peer in ("eager", "compile"):
                if isinstance(other := times.get(peer), Timing):
                    row[f"ratio_{peer}"] = other.p50 / ours.p50
        rows.append(row)
    return rows


def _figures(found: Timing | str, num_bytes: int) -> Row:
    if isinstance(found, str):
        return {"ok": False, "error": found}
    return {
        "us_p50": found.p50,
        "us_p10": found.p10,
        "us_p90": found.p90,
        "gbps": num_bytes / found.p50 / 1000,
        "captured": found.captured,
        "ok": True,
        "error": None,
    }


def _less(found: Timing | str, producer: Timing) -> Timing | str:
    """The time behind a producer without the producer's."""
    if isinstance(found, str):
        return found
    p50, p10, p90 = (value - producer.p50 for value in (found.p50, found.p10, found.p90))
    if p50 <= 0:
        return "no longer than the producer alone"
    return Timing(p50=p50, p10=p10, p90=p90, captured=found.captured)


def splits(bench: Bench) -> Iterator[Job]:
    """Our kernels one by one, at every shape of the network."""
    if bench.device != "cuda" or bench.backend is None:
        return
    for case in bench.first:
        if case.passed == "forward+backward":
            yield Job(name=f"split {case.key}", run=lambda case=case: _split(case, bench))


def _split(case: Case, bench: Bench) -> Iterator[Row]:
    buffers = Buffers(case, bench.device)
    call = buffers.call(peers.ours(bench.backend, case.fusion, True))
    for i in range(2):
        call(i)
    events = split.kernels_of(lambda: [call(i % buffers.sets) for i in range(2 * buffers.sets)])
    for kernel, (taken, calls) in split.split(events).items():
        floor = kernel_floor_bytes(case.size, case.dtype, case.fusion, kernel)
        yield {
            "kind": "split",
            "case": case.key,
            "shape": case.shape,
            "fusion": case.fusion,
            "kernel": kernel,
            "us_p50": taken,
            "launches": calls / (2 * buffers.sets),
            "bytes_floor": floor,
            "gbps": floor / taken / 1000 if taken else None,
            "ok": True,
        }

"""Timing in turn, jobs, and rows, with stopwatches that only pretend."""

import pytest
from on_gpu import measuring, peers, plan
from on_gpu.jobs import Bench, Job, work
from on_gpu.measuring import kernel_rows, measured
from on_gpu.record import Deadline, Record, of_kind
from on_gpu.timing import DeviceLost, Timing, compare, summarised


class Pretended:
    """Every call runs once, and takes what it is said to take."""

    def __init__(self, lost=False):
        self.order = []
        self.lost = lost

    def prepare(self, call, sets):
        return Sampler(self, call(0) if callable(call) else call)

    def wait(self):
        if self.lost:
            raise RuntimeError("an illegal memory access was encountered")


class Sampler:
    captured = True

    def __init__(self, stopwatch, taken):
        self.stopwatch, self.taken = stopwatch, taken if isinstance(taken, float) else 10.0

    def sample(self):
        self.stopwatch.order.append(self.taken)
        return lambda: self.taken


def raising(i):
    raise RuntimeError("out of memory\nand a long story")


def time(p50):
    return Timing(p50=p50, p10=p50, p90=p50, captured=True)


def test_calls_are_timed_in_turn_and_errors_are_kept_as_words():
    stopwatch = Pretended()
    found = compare({"a": lambda i: 1.0, "b": raising, "c": lambda i: 2.0}, sets=3, stopwatch=stopwatch)
    assert found == {"a": time(1.0), "b": "RuntimeError: out of memory", "c": time(2.0)}
    assert stopwatch.order[:4] == [1.0, 2.0, 2.0, 1.0]
    assert compare({"b": raising}, sets=1, stopwatch=stopwatch) == {"b": "RuntimeError: out of memory"}


def test_a_lost_device_ends_the_process():
    with pytest.raises(DeviceLost):
        compare({"b": raising}, sets=1, stopwatch=Pretended(lost=True))


def test_deciles():
    found = summarised([float(i) for i in range(1, 12)], captured=False)
    assert (found.p10, found.p50, found.p90) == (2.0, 6.0, 10.0)
    assert summarised([3.0], captured=True) == time(3.0)


def bench(tmp_path, *, left=100.0, stopwatch=None):
    record = Record(tmp_path / "gpu.jsonl")
    return Bench(device="cpu", record=record, deadline=Deadline.after(left), stopwatch=stopwatch or Pretended())


def test_jobs_leave_rows_errors_and_what_was_skipped(tmp_path):
    here = bench(tmp_path)
    work([Job(name="good", run=lambda: [{"kind": "x"}]), Job(name="bad", run=lambda: raising(0))], here, "s")
    assert here.record.begun() == ["good", "bad"]
    assert len(of_kind(here.record.rows(), "x")) == 1
    (row,) = of_kind(here.record.rows(), "error")
    assert (row["case"], row["error"]) == ("bad", "RuntimeError: out of memory")
    work([Job(name="good", run=lambda: raising(0))], here, "s")  # not begun again
    assert len(of_kind(here.record.rows(), "error")) == 1
    late = bench(tmp_path, left=1.0)
    work([Job(name=name, run=lambda: raising(0)) for name in "vw"], late, "s")
    assert of_kind(late.record.rows(), "skipped") == [{"kind": "skipped", "section": "s", "count": 2, "first": "v"}]


def test_rows_say_what_each_is_to_the_others():
    case = plan.timed_first(batch=1)[0]
    times = {"ours": time(20.0), "eager": time(50.0), "compile": "Unsupported: no", "copy": time(18.0)}
    rows = {row["impl"]: row for row in kernel_rows(case, times, ours_ok=False)}
    assert rows["ours"]["ratio_copy"] == 0.9
    assert rows["ours"]["ratio_eager"] == 2.5
    assert "ratio_compile" not in rows["ours"]
    assert rows["ours"]["ok"] is False and rows["eager"]["ok"] is True
    assert rows["compile"]["ok"] is False and rows["compile"]["error"] == "Unsupported: no"
    assert rows["ours"]["gbps"] == pytest.approx(case.floor / 20.0 / 1000)


@pytest.mark.parametrize("passed", ["forward", "forward+backward", "inference", "frozen"])
@pytest.mark.parametrize("fusion", ["relu", "add"])
def test_every_pass_of_every_implementation_runs(tmp_path, monkeypatch, passed, fusion):
    monkeypatch.setattr(peers, "compiled", peers.eager)
    case = peers.Case(dtype="fp16", layout="NHWC", shape="512 @7", size=(2, 8, 7, 7), fusion=fusion, passed=passed)
    rows = list(measured(case, bench(tmp_path), [], measuring._Share(10)))
    assert [row["impl"] for row in rows] == ["ours", "eager", "eager, no cuDNN", "compile", "copy"]
    assert all(row["ok"] and row["us_p50"] == 10.0 for row in rows), rows


def test_behind_a_producer_its_time_is_taken_off(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "compiled", peers.eager)
    case = plan.timed_first(batch=1)[-1]
    case = peers.Case(
        dtype="bf16",
        layout="NHWC",
        shape=case.shape,
        size=(2, 8, 7, 7),
        fusion="relu",
        passed="forward",
        temperature="warm",
    )
    rows = list(measured(case, bench(tmp_path), [], measuring._Share(0)))
    assert {row["impl"]: row["error"] for row in rows} == {
        "ours": "no longer than the producer alone",
        "eager": "no longer than the producer alone",
        "compile": "skipped: its share of the time is spent",
    }

"""The order of things, with processes and a clock that only pretend; and the program without a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot
from on_gpu.record import Deadline, Record, of_kind
from on_gpu.sections import measure, planned
from on_gpu.verdicts import verdicts


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds


class Processes:
    """Launches that take so long and end so: by the worker's name, one after the other."""

    def __init__(self, clock, script):
        self.clock, self.script, self.started, self.stopped = clock, script, [], []

    def __call__(self, command, log, environment):
        name = command[command.index("--worker") + 1]
        self.started.append(name)
        seconds, status = self.script.get(name, [(1.0, 0)])[0]
        if len(self.script.get(name, [])) > 1:
            self.script[name].pop(0)
        return Pretended(self, name, self.clock.now + seconds, status)


class Pretended:
    def __init__(self, processes, name, end, status):
        self.processes, self.name, self.end, self.status = processes, name, end, status

    def ended(self):
        return self.status if self.processes.clock.now >= self.end else None

    def stop(self):
        self.processes.stopped.append(self.name)


def run(tmp_path, script=None, *, deadline=450.0, **options):
    clock = Clock()
    processes = Processes(clock, script or {})
    record = Record(tmp_path / "gpu.jsonl")
    said = []
    measure(
        ["python", "gpu.py"],
        record,
        Deadline.after(deadline, clock),
        cores=8,
        launch=processes,
        pause=clock.pause,
        say=said.append,
        **options,
    )
    return processes, record, said, clock


def test_all_sections_in_order(tmp_path):
    processes, record, said, _ = run(tmp_path)
    assert processes.started == [*["prepare"] * 4, "prepare-endtoend", "large", "kernels", "rest", "endtoend"]
    assert run(tmp_path, early_endtoend=True)[0].started[-2:] == ["endtoend", "rest"]
    assert run(tmp_path, only=["kernels"])[0].started == ["kernels"]
    assert not of_kind(record.rows(), "process")
    assert said[-1] == f"\n=== all, 445 s left\n\n{(tmp_path / 'summary.txt').read_text()}"
    assert all(verdict.met is None for verdict in verdicts(record.rows()))
    assert (tmp_path / "summary.txt").exists() and (tmp_path / "performance.md").exists()


def test_what_ends_by_an_error_is_started_again_but_not_for_ever(tmp_path):
    processes, record, said, _ = run(tmp_path, {"kernels": [(1.0, 1), (1.0, -11), (1.0, 0)]})
    assert processes.started.count("kernels") == 3
    errors = [row["error"] for row in of_kind(record.rows(), "process")]
    assert errors == [
        "kernels 0 ended with status 1, started again",
        "kernels 0 ended with status -11, started again",
    ]
    assert {f"a process ended: {error}" for error in errors} <= set(said)
    assert run(tmp_path, {"kernels": [(1.0, 1)]})[0].started.count("kernels") == 3


def test_what_hangs_is_stopped_and_the_rest_goes_on(tmp_path):
    for_ever = {name: [(1e9, 0)] for name in ("prepare", "large", "kernels", "rest", "endtoend")}
    processes, record, said, clock = run(tmp_path, for_ever)
    assert clock.now < 450
    assert {"prepare", "large", "kernels", "rest", "endtoend"} <= set(processes.stopped)
    (kernels,) = of_kind(record.rows(), "process", section="kernels")
    assert kernels["error"] == "kernels 0 was stopped at its time limit"
    assert f"a process ended: {kernels['error']}" in said


def test_too_little_time_is_said(tmp_path):
    processes, record, said, _ = run(tmp_path, deadline=10.0)
    assert processes.started == []
    skipped = [row["section"] for row in of_kind(record.rows(), "skipped")]
    assert skipped == ["prepare", "large", "kernels", "rest", "endtoend"]
    assert said[1:-1] == [f"skipped: {name}, 10 s were left" for name in skipped]


@pytest.mark.parametrize("early", [False, True])
def test_sections_fit_into_the_deadline(early):
    sections = planned(deadline=450, early_endtoend=early, cores=16)
    limited = sum(section.seconds for section in sections if section.seconds is not None)
    assert limited < 450 - 50
    assert sections[-1].seconds is None


@pytest.fixture
def gpu():
    path = Path(__file__).parents[3] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.err == "This measures kernels on an NVIDIA GPU, and torch sees none here.\n"
    assert said.out == "" and not (tmp_path / "out").exists()


def test_tables_can_be_made_later(gpu, monkeypatch, capsys, tmp_path):
    Record(tmp_path / "gpu.jsonl").add({"kind": "environment", "name": "a machine"})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tables", "--out", str(tmp_path)])
    assert gpu.main() == 0
    assert capsys.readouterr().out == snapshot("""\
a machine


NOT MEASURED: every check of correctness and determinism is right: 0 of 0 checks
NOT MEASURED: bf16 NHWC forward+backward at 0.88 of a copy's bandwidth (geometric mean by bytes): no times
NOT MEASURED: faster than eager at every shape: 0 of 0 cases
NOT MEASURED: faster than torch.compile on all batch norms of ResNet-50: not all 16 combinations have both times
NOT MEASURED: a training step of ResNet-50 no slower than the best peer's: only nothing
NOT MEASURED: memory of a step at most 1.02 of eager's: no step of both
NOT MEASURED: all batch norms of a ResNet-50 step within 1.125 of their floor: no times of all shapes, or no bandwidth

""")

import json
import os
import subprocess
import sys

import pytest
from inline_snapshot import snapshot

from truenorm.lab.report.shown import shown
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import REFERENCES, conclusion, only_summary
from truenorm.lab.study import study
from truenorm.record import Record
from truenorm.show import number


@pytest.fixture
def record(truenorm, tiny):
    """What a tiny study ended with; its record is in `out`."""
    ended = truenorm("study", *tiny, "--out", "out")
    assert (ended.code, ended.err) == (0, "")
    return ended


def test_the_study_prints_what_the_record_shows_and_where_the_record_and_the_page_are(record, shown_of, tmp_path):
    assert record.out == f"{shown_of('out')}\nrecord: out/record.json\npage: out/report.html\n"
    found = shown(Record.load("out"))
    assert [table.title for table in found.tables] == snapshot(
        [
            "same weights, other statistics",
            "other networks, statistics as torch keeps them",
            "estimation shift",
            "momentum each layer took",
        ]
    )
    assert (tmp_path / "out" / "report.html").read_text() == found.page()
    summary = only_summary(read_study(Record.load("out")))
    assert (summary.seeds, found.conclusion) == ((0, 1), conclusion(summary))


def test_a_report_gives_byte_for_byte_what_the_study_gave(record, shown_of, truenorm, tmp_path):
    page = (tmp_path / "out" / "report.html").read_bytes()
    for place in ("out", "out/record.json"):
        (tmp_path / "out" / "report.html").unlink()
        ended = truenorm("report", place)
        assert (ended.code, ended.err, ended.out) == (0, "", f"{shown_of('out')}\npage: out/report.html\n")
        assert (tmp_path / "out" / "report.html").read_bytes() == page


def test_a_study_without_what_draws_says_so(truenorm, tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "altair", None)
    ended = truenorm("study", *tiny, "--out", "out")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == snapshot(
        "no page: altair is not installed; run: pip install 'altair>=6' 'jinja2>=3.1' 'vl-convert-python>=1.9', then: truenorm report out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["record.json", "trials"]


def test_this_comparison_sees_another_record(record, shown_of, tmp_path):
    """Planted: one accuracy one image higher."""
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    before = shown_of("out")
    row = next(row for row in data["rows"] if row[3] == "accuracy")
    row[4] += 1 / 359
    path.write_text(json.dumps(data))
    assert shown_of("out") != before


def test_the_record_holds_the_line_that_does_it_again(record, truenorm, tiny):
    command = Record.load("out").command
    assert command == " ".join(["truenorm study", *tiny, "--out out"])
    truenorm(*command.split()[1:-1], "again")
    assert Record.load("again").rows == Record.load("out").rows


@pytest.mark.slow
def test_a_process_of_its_own(tiny, shown_of, tmp_path):
    """As a shell runs it: the output is text without colours, wide enough, and errors are apart."""
    code = "from truenorm.cli import main; main()"
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"OMP_NUM_THREADS": "1"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip

    study, report = run("study", *tiny), run("report", "results/study")
    assert study.stderr == report.stderr == ""
    tables = shown_of(tmp_path / "results" / "study")
    page = "page: results/study/report.html\n"
    assert study.stdout == f"{tables}\nrecord: results/study/record.json\n{page}"
    assert report.stdout == f"{tables}\n{page}"
    assert not {"\x1b", "…"} & set(study.stdout)


def test_a_path_is_printed_as_it_is(truenorm, shown_of, tiny):
    folder = f"[red]out[/red]/{'long' * 40}"
    ended = truenorm("study", *tiny[:-2], "--arms", "static-0.1", "--out", folder)
    assert ended.out == f"{shown_of(folder)}\nrecord: {folder}/record.json\npage: {folder}/report.html\n"


def test_leakage_is_labelled(truenorm, shown_of, tiny):
    ended = truenorm("study", *tiny[:-2], "--arms", "dmbn", "--reference", "test", "--out", "out")
    assert ended.out == f"{shown_of('out')}\nrecord: out/record.json\npage: out/report.html\n"
    summary = only_summary(read_study(Record.load("out")))
    (shift,) = (table for table in shown(Record.load("out")).tables if table.title == "estimation shift")
    floors = ", ".join(
        f"{flow} {number(summary.noise_floor(flow), 2)}" for flow in REFERENCES if summary.noise_floor(flow)
    )
    assert shift.notes[1] == (
        "LEAKAGE: scored against test images, as asked; these figures cannot be used to choose anything. "
        f"Noise floor: {floors}."
    )


# Ctrl-C.


def interrupt(monkeypatch, at):
    """Ctrl-C when a trial begins, as if at the keyboard."""
    real = truenorm_run

    def stopped(trial, *rest):
        if trial.seed == at:
            raise KeyboardInterrupt
        return real(trial, *rest)

    monkeypatch.setattr(study, "measure_trial", stopped)


truenorm_run = study.measure_trial


def test_ctrl_c_behind_a_trial(truenorm, shown_of, tiny, monkeypatch):
    interrupt(monkeypatch, at=1)
    ended = truenorm("study", *tiny[:-2], "--arms", "dmbn", "--out", "out")
    assert (ended.code, ended.sentence) == snapshot(
        (130, "truenorm: interrupted; finished trials stay in out/trials, and the same command goes on from there")
    )
    assert not Record.load("out").complete
    report = truenorm("report", "out")
    assert (report.code, report.out) == (0, f"{shown_of('out')}\npage: out/report.html\n")
    assert shown(Record.load("out")).tables[0].notes == snapshot(
        (
            "digits: 100 images to train on, 239 to choose by, 359 to test; 1 seed; mean ± 95 % interval over seeds.",
            "− static-0.1: paired by seed, on the same weights.",
            "The study was not finished: fewer trials than asked for.",
            "test split drawn from the training images, 359 of 1797",
        )
    )


def test_ctrl_c_before_a_trial_has_ended(truenorm, tiny, monkeypatch, tmp_path):
    interrupt(monkeypatch, at=0)
    ended = truenorm("study", *tiny, "--out", "out")
    assert (ended.code, ended.sentence) == snapshot(
        (130, "truenorm: interrupted; finished trials stay in out/trials, and the same command goes on from there")
    )
    assert not list((tmp_path / "out").rglob("*.json"))


def test_ctrl_c_leaves_an_old_record(record, truenorm, tiny, monkeypatch):
    before = Record.load("out")
    interrupt(monkeypatch, at=0)
    assert truenorm("study", *tiny, "--weight-decay", "0.1", "--out", "out").code == 130
    assert Record.load("out") == before


def test_the_same_command_goes_on_where_it_stopped(record, truenorm, tiny, monkeypatch):
    """What was interrupted in its second seed ends as if it had not been."""
    with monkeypatch.context() as patch:
        interrupt(patch, at=1)
        assert truenorm("study", *tiny, "--out", "again").code == 130
    ended = truenorm("study", *tiny, "--out", "again")
    assert (ended.code, ended.err) == snapshot((0, "truenorm: 3 of 6 trials were finished before, in again/trials\n"))
    assert Record.load("again").rows == Record.load("out").rows


def test_ctrl_c_anywhere_else(truenorm, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "load", stopped)
    ended = truenorm("report", "out")
    assert (ended.code, ended.sentence) == (130, "truenorm: interrupted; nothing was changed")

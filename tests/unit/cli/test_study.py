import json
import os
import subprocess
import sys

import pytest
from inline_snapshot import snapshot

from truenorm.lab.study import study
from truenorm.record import Record


@pytest.fixture
def record(truenorm, tiny):
    """What a tiny study ended with; its record is in `out`."""
    ended = truenorm("study", *tiny, "--out", "out")
    assert (ended.code, ended.err) == (0, "")
    return ended


TITLES = (
    "same weights, other statistics",
    "other networks, statistics as torch keeps them",
    "estimation shift",
    "momentum each layer took",
)


def test_the_study_prints_tables_a_sentence_and_where_the_record_and_the_page_are(record, tmp_path):
    lines = [line.rstrip() for line in record.out.splitlines()]
    places = [lines.index(title) for title in TITLES]
    assert places == sorted(places)
    assert lines[-3:] == ["", "record: out/record.json", "page: out/report.html"]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")
    assert any(line.startswith("Points of accuracy against static-0.1, 2 seeds") for line in lines)


def test_a_report_gives_byte_for_byte_what_the_study_gave(record, truenorm, tmp_path):
    tables, _, paths = record.out.rpartition("\nrecord: ")
    assert paths == "out/record.json\npage: out/report.html\n"
    page = (tmp_path / "out" / "report.html").read_bytes()
    for place in ("out", "out/record.json"):
        (tmp_path / "out" / "report.html").unlink()
        ended = truenorm("report", place)
        assert (ended.code, ended.err, ended.out) == (0, "", tables + "\npage: out/report.html\n")
        assert (tmp_path / "out" / "report.html").read_bytes() == page


def test_a_study_without_what_draws_says_so(truenorm, tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "altair", None)
    ended = truenorm("study", *tiny, "--out", "out")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == snapshot(
        "no page: altair is not installed; run: pip install 'altair>=6' 'jinja2>=3.1' 'vl-convert-python>=1.9', then: truenorm report out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["record.json", "trials"]


def test_this_comparison_sees_another_record(record, truenorm, tmp_path):
    """Planted: one accuracy one image higher."""
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    row = next(row for row in data["rows"] if row[3] == "accuracy")
    row[4] += 1 / 359
    path.write_text(json.dumps(data))
    assert truenorm("report", "out").out.rpartition("\npage: ")[0] != record.out.rpartition("\nrecord: ")[0]


def test_the_record_holds_the_line_that_does_it_again(record, truenorm, tiny):
    command = Record.load("out").command
    assert command == " ".join(["truenorm study", *tiny, "--out out"])
    truenorm(*command.split()[1:-1], "again")
    assert Record.load("again").rows == Record.load("out").rows


@pytest.mark.slow
def test_a_process_of_its_own(tiny, tmp_path):
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
    tables, _, page = report.stdout.rpartition("\npage: ")
    assert study.stdout == f"{tables}\nrecord: results/study/record.json\npage: {page}"
    assert "\x1b" not in study.stdout
    assert "…" not in study.stdout


def test_a_path_is_printed_as_it_is(truenorm, tiny, tmp_path):
    folder = f"[red]out[/red]/{'long' * 40}"
    ended = truenorm("study", *tiny[:-2], "--arms", "static-0.1", "--out", folder)
    assert ended.out.endswith(f"\nrecord: {folder}/record.json\npage: {folder}/report.html\n")
    assert (tmp_path / folder / "record.json").exists()


def test_leakage_is_labelled(truenorm, tiny):
    ended = truenorm("study", *tiny[:-2], "--arms", "dmbn", "--reference", "test")
    assert "LEAKAGE: scored against test images, as asked" in ended.out


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


def test_ctrl_c_behind_a_trial(truenorm, tiny, monkeypatch):
    interrupt(monkeypatch, at=1)
    ended = truenorm("study", *tiny[:-2], "--arms", "dmbn", "--out", "out")
    assert (ended.code, ended.sentence) == snapshot(
        (130, "truenorm: interrupted; finished trials stay in out/trials, and the same command goes on from there")
    )
    assert not Record.load("out").complete
    report = truenorm("report", "out")
    assert report.code == 0
    assert "The study was not finished: fewer trials than asked for." in report.out


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
    assert ended.code == 130
    assert "Traceback" not in ended.err

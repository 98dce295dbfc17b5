"""`truenorm report`: what it prints, and what it writes."""

import sys

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic import ARMS, study

from truenorm.cli import main


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            main(["report", *arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def saved(tmp_path):
    def save(folder, **options):
        study(**{"seeds": 2, "num_layers": 2, **options}).save(tmp_path / folder / "record.json")
        return folder

    return save


def test_one_record(report, saved, tmp_path):
    code, out, err = report(saved("study"))
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["", "page: study/report.html"]
    assert "same weights, other statistics" in out and "momentum each layer took" in out
    assert (tmp_path / "study" / "report.html").read_text().startswith("<!doctype html>")


def test_the_file_itself_and_another_place(report, saved, tmp_path):
    saved("study")
    assert report("study/record.json")[1].endswith("page: study/report.html\n")
    assert report("study", "--out", "new/page.html")[1].endswith("\n\npage: new/page.html\n")
    assert (tmp_path / "new" / "page.html").exists()


def test_a_grid_has_its_overview(report, saved):
    code, out, _ = report(saved("grid", batch_sizes=(2, 64)))
    assert code == 0 and "2 settings" in out and "momentum each layer took" not in out
    assert "Points of accuracy in 2 settings" in out


def test_svgs(report, saved, tmp_path):
    _, out, _ = report(saved("study"), "--svg", "charts")
    assert out.splitlines()[-3:] == snapshot(["charts: 3 in charts", "", "page: study/report.html"])
    assert sorted(path.name for path in (tmp_path / "charts").iterdir()) == snapshot(
        ["difference-by-arm.svg", "shift-by-layer.svg", "shift-by-momentum.svg"]
    )


def test_several_records(report, saved, tmp_path):
    code, out, err = report(saved("a"), saved("b", gains=dict.fromkeys(ARMS, 0.3), seeds=3))
    assert (code, err) == (0, "")
    assert "A: a (2 seeds, 359 images of digits to test)" in out and "B − A" in out
    assert out.endswith("\npage: report.html\n") and (tmp_path / "report.html").exists()


def test_records_of_the_same_name_go_by_their_path(report, saved):
    _, out, _ = report(saved("x/study"), saved("y/study"))
    assert "A: x/study (" in out and "B: y/study (" in out


def test_a_folder_has_its_whole_name(report, saved, tmp_path, monkeypatch):
    _, out, _ = report(saved("lr-0.1"), saved("lr-0.2") + "/record.json")
    assert "A: lr-0.1 (" in out and "B: lr-0.2 (" in out
    (tmp_path / "here.v2.json").write_text((tmp_path / "lr-0.1" / "record.json").read_text())
    monkeypatch.chdir(tmp_path / "lr-0.2")
    _, out, _ = report(".", "../here.v2.json")
    assert "A: lr-0.2 (" in out and "B: here.v2 (" in out


def test_the_same_record_twice(report, saved):
    saved("z")
    assert report("z", "z") == snapshot(
        (2, "", "truenorm: z is given twice; a record side by side with itself says nothing\n")
    )
    assert report("z", "z/record.json")[::2] == snapshot(
        (2, "truenorm: z/record.json is given twice; a record side by side with itself says nothing\n")
    )


def test_what_cannot_be_shown(report, saved, tmp_path):
    saved("grid", batch_sizes=(2, 64))
    saved("study")
    (tmp_path / "file").write_text("")
    for arguments in (("nowhere",), ("study", "grid"), ("study", "nowhere"), ("study", "--out", "file/page.html")):
        code, _, err = report(*arguments)
        assert (code, err) == {
            ("nowhere",): snapshot((1, "truenorm: cannot read nowhere: No such file or directory\n")),
            ("study", "grid"): snapshot((2, "truenorm: grid holds 2 settings; records side by side hold one each\n")),
            ("study", "nowhere"): snapshot((1, "truenorm: cannot read nowhere: No such file or directory\n")),
            ("study", "--out", "file/page.html"): snapshot(
                (2, "truenorm: cannot write file/page.html: File exists; choose another folder\n")
            ),
        }[arguments]


def test_without_the_extra_the_tables_are_there_and_the_rest_is_named(report, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    code, out, err = report(saved("study"))
    assert "same weights, other statistics" in out
    assert (code, err) == snapshot(
        (2, "truenorm: altair is not installed; run: pip install 'altair>=6' 'jinja2>=3.1' 'vl-convert-python>=1.9'\n")
    )

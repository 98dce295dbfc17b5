"""A diagnosis is shown from its record alone."""

from dataclasses import replace

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from unit.lab.report.test_page import Read

import truenorm as tn
from truenorm.cli import main
from truenorm.doctor.tables import tables_of
from truenorm.errors import InvalidRecord
from truenorm.lab.report import diagnosis_page
from truenorm.lab.report.diagnosis import diagnosis_conclusion, read_diagnosis
from truenorm.record import Measurement, Record


@pytest.fixture(scope="module")
def diagnosis():
    """Of a network whose running variance is far too small in one layer."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6))
    images = torch.randn(256, 4, generator=draw)
    batches = [(part, part.argmax(1)) for part in images.split(32)]
    net.train()
    for part, _ in batches * 20:
        net(part)
    net[4].running_var.fill_(1e-3)
    return tn.diagnose(net, batches)


def test_the_figures_are_those_of_the_diagnosis(diagnosis):
    layers, scores = tables_of(diagnosis.record().rows)
    shown_layers, shown_scores = diagnosis.tables()
    assert layers.rows == shown_layers.rows
    assert [row[1:] for row in scores.rows] == [row[1:] for row in shown_scores.rows]


def test_the_lines_are_verdict_causes_and_what_to_do(diagnosis):
    lines = read_diagnosis(diagnosis.record()).lines
    said = dict(lines)
    assert (said["verdict"], said["do"]) == (diagnosis.verdict, diagnosis.recommendation)
    causes = [finding.sentence for finding in diagnosis.findings if finding.level != "note"]
    assert [sentence for what, sentence in lines if what in ("cause", "also")] == causes[:3]


def test_report_prints_the_record_and_draws_its_page(diagnosis, tmp_path, capsys):
    file = tmp_path / "d.json"
    record = replace(diagnosis.record(), configuration={"model": "net.py:make"})
    record.save(file)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(file), "--svg", str(tmp_path / "charts")])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "".join(diagnosis.verdict.split()) in "".join(out.split())
    assert (tmp_path / "charts" / "error-by-layer.svg").exists()
    page = (tmp_path / "report.html").read_text()
    assert page == diagnosis_page(read_diagnosis(Record.load(file)))
    assert "diagnosis of net.py:make" in Read(page).texts and "figure" in Read(page).opened


def test_of_a_diagnosis_without_data_the_lines_alone():
    trial = {"healthy": True, "verdict": "nothing is wrong", "findings": [{"sentence": "a note", "level": "note"}]}
    diagnosis = read_diagnosis(Record(command="", trials={"diagnosis": trial}))
    assert tables_of(diagnosis.record.rows) == ()
    assert diagnosis_conclusion(diagnosis) == snapshot("verdict  nothing is wrong\nnote     a note")
    assert "diagnosis" in Read(diagnosis_page(diagnosis)).texts


def test_sentences_of_what_was_ruled_out_and_of_steps_may_stand_beside_their_values():
    steps = [
        {"when": "do", "sentence": "fix the loader", "remedy": {}},
        {"when": "then", "sentence": "repair", "remedy": {}},
    ]
    trial = {
        "healthy": False,
        "verdict": "bad",
        "ruled_out": [{"cause": "a", "sentence": "not a"}, "not b"],
        "steps": steps,
    }
    diagnosis = read_diagnosis(Record(command="", trials={"diagnosis": trial | {"recommendation": "all of it"}}))
    assert diagnosis.lines == snapshot(
        (("verdict", "bad"), ("not", "not a; not b"), ("do", "fix the loader"), ("then", "repair"))
    )


def test_a_layer_without_all_its_numbers():
    rows = (Measurement("diagnosis", "stored", "1", "shift.arriving", 0.5),)
    (table,) = tables_of(rows)
    assert table.rows == snapshot((("1", "0.50 σ", "", "", "", "", "████████████████████████████"),))


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ({"verdict": "fine"}, "healthy of diagnosis is None"),
        ({"healthy": True, "verdict": 3}, "verdict of diagnosis is 3"),
        (
            {"healthy": True, "verdict": "fine", "findings": [{"cause": "momentum"}]},
            "sentence of item 0 of findings of diagnosis is None",
        ),
        ({"healthy": True, "verdict": "fine", "ruled_out": "x"}, "ruled_out of diagnosis is 'x'"),
    ],
)
def test_a_damaged_record_is_one_sentence(trial, said):
    with pytest.raises(InvalidRecord) as caught:
        read_diagnosis(Record(command="", trials={"diagnosis": trial}))
    assert str(caught.value) == f"the record's header is damaged: {said}"


def test_side_by_side_it_has_no_place(diagnosis, tmp_path, capsys):
    for name in ("a", "b"):
        diagnosis.record().save(tmp_path / f"{name}.json")
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "a is a record of a diagnosis" in capsys.readouterr().err

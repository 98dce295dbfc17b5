"""A diagnosis is shown from its record alone."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from unit.lab.report.test_page import Read

import truenorm as tn
from truenorm.cli import main
from truenorm.doctor.diagnosis import Diagnosis, LayerState
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Looked, Outcome, OutcomeKind, RuledOut, Undecided
from truenorm.doctor.remedy import Nothing, RepairStatistics, Step
from truenorm.doctor.tables import tables_of
from truenorm.errors import InvalidRecord
from truenorm.lab.report import diagnosis_page
from truenorm.lab.report.diagnosis import diagnosis_conclusion, read_diagnosis
from truenorm.metrics.intervals import Interval
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


@pytest.mark.parametrize("kind", get_args(OutcomeKind))
@pytest.mark.parametrize("healthy", [True, False])
def test_a_record_says_line_by_line_what_the_diagnosis_says(kind, healthy):
    """Whatever was found, with all that may be said beside it."""
    hidden = Undecided(metric="accuracy", gain=0.01, half_width=0.02, samples=900) if kind == "undecided" else None
    found = Diagnosis(
        outcome=Outcome(kind=kind, healthy=healthy, off=1, layers=2, undecided=hidden, unknown=("stem",)),
        layers=(LayerState(layer="1", off=1.0, own=1.0, inherited=0.0, floor=0.1, harm=1.0),),
        findings=(
            Finding(cause="unexplained"),
            Finding(cause="dropout", evidence={"dropouts": ("0",), "rates": (0.5,)}, explained=0.5),
            Finding(cause="bias before batch norm", layers=("1",), level="note"),
        ),
        gains={"joint": {"accuracy": Interval(0.01, 0.02, 50)}},
        scores={"as it is": {"accuracy": 0.5}, "joint": {"accuracy": 0.51}},
        best=None,
        ruled_out=(RuledOut(what="statistics", changes=(("accuracy", 0.01),)),),
        steps=(Step(remedy=RepairStatistics()), Step(remedy=Nothing(), when="later")),
        looked=Looked(limit=2000, kind="classes", measured=50, scored=50, batch_size=10),
    )
    record = Record.loads(found.record().dumps())
    assert read_diagnosis(record).lines == found.lines()
    assert read_diagnosis(record).diagnosis.healthy is healthy


EARLIER = {
    "healthy": True,
    "verdict": "it is not batch norm: the stored statistics are those of these data, up to noise",
    "outcome": {"kind": "sound", "data": True, "off": 0, "layers": 2, "improved": []},
    "cause": "initial values",
    "findings": [
        {
            "cause": "initial values",
            "level": "cause",
            "evidence": {"left": 0.1, "agrees": True, "momentum": 0.001, "counted_batches": 304},
            "explained": 0.9,
            "layers": [],
            "remedy": {"kind": "repair statistics", "needs_score": False, "next_time": None},
            "sentence": "momentum 0.001, 304 batches",
        }
    ],
    "best": None,
    "ruled_out": [
        {
            "what": "statistics",
            "metric": "accuracy",
            "change": 0.0,
            "sentence": "statistics: no other gives more than +0 of accuracy",
        },
        {
            "what": "training data",
            "metric": None,
            "change": None,
            "sentence": "if the training data score much better than these, it is overfitting, or other data",
        },
    ],
    "steps": [
        {
            "when": "do",
            "remedy": {"kind": "nothing", "none_better": False},
            "sentence": "leave the statistics alone",
        }
    ],
    "recommendation": "leave the statistics alone",
    "looked": {
        "measured": 299,
        "scored": 298,
        "same": False,
        "batch_size": 32,
        "unreached": [],
        "partly": [],
        "frozen": [],
        "repeated": [],
    },
    "notes": ["299 samples measured and 298 others scored, in batches of 32"],
}
"""What an earlier version recorded, before limits, kinds of labels and several changes were."""


def test_a_record_of_an_earlier_version(tmp_path, capsys):
    file = tmp_path / "earlier.json"
    rows = (
        Measurement("diagnosis", "stored", "1", "shift.arriving", 0.5, 0.01),
        Measurement("diagnosis", "stored", None, "accuracy", 0.98),
        Measurement("diagnosis", "joint", None, "accuracy", 0.98),
        Measurement("diagnosis", "joint", None, "gain.accuracy", 0.0, 0.0002, 298),
    )
    Record(command="truenorm diagnose", rows=rows, trials={"diagnosis": EARLIER}).save(file)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(file)])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert diagnosis_conclusion(read_diagnosis(Record.load(file))) == snapshot("""\
verdict   it is not batch norm: the stored statistics are those of these data, up to noise
harmless  momentum 0.001, 304 batches
not       statistics: no other gives more than +0 of accuracy; if the training data score much better than these, it is overfitting, or other data
looked    299 samples measured and 298 others scored, in batches of 32
do        leave the statistics alone\
""")
    assert "0.50 σ" in out and "leave the statistics alone" in out


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

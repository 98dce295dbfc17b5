"""Situations of users: what counts as right, that they can be built, and that the kept table is its record's."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from truenorm.doctor import remedy
from truenorm.doctor.causes import CAUSES
from truenorm.record import Record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))  # as it is when a script runs

judge = importlib.import_module("judge_situations")
situation = importlib.import_module("situations.situation")
training = importlib.import_module("situations.training")
Answer, Expected, Judgement, judged = situation.Answer, situation.Expected, situation.Judgement, situation.judged

ALL = judge.KINDS | judge.FURTHER
KEPT = sorted((ROOT / "docs" / "results" / "situations").glob("*.json"))

ALARM = Expected(
    healthy=False, first=frozenset({"initial values", "gamma_unused"}), remedy=frozenset({"RepairStatistics"}),
    forbidden=frozenset({"lag"}), repair_gain=True,
)  # fmt: skip
SAID = Answer(
    healthy=False,
    findings=(("initial values", "cause"),),
    steps=(("RepairStatistics", "do"),),
    before=0.2,
    repaired=0.9,
)
REACHED = {"reached": 0.9, "noise": 0.02}


def test_an_answer_that_is_right_in_every_part():
    assert judged(ALARM, SAID, **REACHED).right


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"healthy": True}, {"verdict": False}),
        ({"findings": ()}, {"first": False}),
        ({"findings": (("eps", "cause"), ("initial values", "cause"))}, {"first": False}),
        ({"findings": (("initial values", "note"),)}, {"first": False}),
        ({"findings": (("initial values", "cause"), ("lag", "note"))}, {"untrue": ("lag",)}),
        ({"steps": ()}, {"remedy": False}),
        ({"steps": (("Nothing", "do"),)}, {"remedy": False}),
        ({"preprocessed": 0.8}, {"remedy": False}),
        ({"repaired": 0.8}, {"repair": False}),
        ({"repaired": None}, {"repair": False}),
    ],
)
def test_what_is_wrong_in_one_part(changed, part):
    wrong = judged(ALARM, replace(SAID, **changed), **REACHED)
    assert wrong == replace(judged(ALARM, SAID, **REACHED), **part)
    assert not wrong.right


def test_right_answers_are_known_by_what_they_are_called_now():
    assert judged(ALARM, replace(SAID, findings=(("weights of batch norm", "defect"),)), **REACHED).first
    assert not judged(ALARM, replace(SAID, findings=(("common factor", "defect"),)), **REACHED).first


def test_notes_stand_before_no_cause():
    noted = replace(SAID, findings=(("dead channels", "note"), ("initial values", "cause")))
    assert judged(ALARM, noted, **REACHED).first


def test_of_a_healthy_network_nothing_need_be_said():
    right = Expected(healthy=True, forbidden=frozenset({"lag"}))
    said = Answer(healthy=True, steps=(("Nothing", "do"),), before=0.9, repaired=0.9)
    assert judged(right, said, **REACHED).right
    assert judged(right, replace(said, findings=(("eps", "cause"),)), **REACHED).right
    assert judged(right, replace(said, findings=(("lag", "cause"),)), **REACHED).untrue == ("lag",)
    assert not judged(right, replace(said, repaired=0.8), **REACHED).repair


def test_where_nothing_is_wrong_no_finding_is_due_and_another_one_is_not_right():
    right = Expected(healthy=True, first=frozenset({"no_batch_norm"}))
    said = Answer(healthy=True, findings=(), before=0.9)
    assert judged(right, said, **REACHED).first
    assert not judged(right, replace(said, findings=(("eps", "cause"),)), **REACHED).first


def test_a_remedy_that_does_not_help_is_wrong_as_the_second_step_too():
    right = Expected(healthy=False, useless=frozenset({"RepairStatistics"}))
    said = replace(SAID, steps=(("Preprocess", "do"), ("RepairStatistics", "then")))
    assert not judged(right, said, **REACHED).remedy
    assert judged(right, replace(said, steps=(("Preprocess", "do"), ("RepairStatistics", "later"))), **REACHED).remedy


def test_a_refusal_is_right_only_where_it_may_be_and_says_of_what():
    refused = Answer(before=0.9, refused="the model has no batch norm layer")
    allowed = Expected(healthy=True, refusal=True)
    assert judged(allowed, refused, **REACHED).right
    assert not judged(allowed, replace(refused, refused="something else"), **REACHED).right
    assert not judged(replace(allowed, refusal=False), refused, **REACHED).right


def test_a_refusal_names_what_it_is_about():
    right = Expected(healthy=False, refusal=True, named=frozenset({"norms.1"}), refusal_words=frozenset({"depends on"}))
    refused = Answer(before=0.9, refused="norms.1 is no batch norm of torch's; what it gives depends on the batch")
    assert judged(right, refused, **REACHED).right
    assert not judged(right, replace(refused, refused="norms.1 is no batch norm of torch's"), **REACHED).right
    assert not judged(right, replace(refused, refused="a batch norm, depends on the batch"), **REACHED).right


def test_layers_that_have_to_be_named():
    right = replace(ALARM, named=frozenset({"norms.1"}))
    assert not judged(right, SAID, **REACHED).first
    assert judged(right, replace(SAID, named=("norms.0", "norms.1")), **REACHED).right


def test_an_error_of_another_kind_is_wrong():
    right = Expected(healthy=True, refusal=True)
    crashed = Answer(before=0.9, refused="a batch norm", crashed=("diagnose",))
    assert not judged(right, crashed, **REACHED).verdict
    healthy = Answer(healthy=True, steps=(("Nothing", "do"),), before=0.9)
    assert judged(right, healthy, **REACHED).right
    assert not judged(right, replace(healthy, crashed=("repair",)), **REACHED).repair


def test_a_layer_is_written_over_in_each_channel():
    layer = torch.nn.BatchNorm1d(8)
    training.overwrite(layer, 0, by=2.0, times=3.0)
    assert torch.equal(layer.running_mean.abs(), torch.full((8,), 2.0))
    assert torch.equal(layer.running_var, torch.full((8,), 3.0))


def test_statistics_measured_anew_are_averages_over_batches():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    batches = [(torch.randn(16, 3) + 2,) for _ in range(4)]
    layer = training.recalibrated(model, batches, training.plainly)[0]
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean(0) for (x,) in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var(0) for (x,) in batches]).mean(0))
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_dividing_by_batches_leaves_no_trace():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).eval()
    x = torch.randn(16, 3) + 2
    with training.by_batch(model):
        assert float(model(x).detach().mean().abs()) < 1e-5
    assert torch.equal(model[0].running_mean, torch.zeros(3)) and not model[0].training


def test_advice_on_preprocessing_as_a_layer():
    images = torch.rand(2, 3, 4, 4)
    advice = remedy.Preprocess(scale=2.0, offset=(0.0, 1.0, -1.0), reverse=True)
    made = judge.Prepared(advice, torch.nn.Identity())(images)
    torch.testing.assert_close(made, torch.stack([2 * images[:, 2], 2 * images[:, 1] + 1, 2 * images[:, 0] - 1], 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_a_situation_comes_out_as_it_is_needed(kind):
    built = ALL[kind](0)
    assert built.name == kind and built.seed == 0
    assert not (built.right.forbidden & built.right.first)
    assert {*built.right.remedy, *built.right.useless} <= {kind.__name__ for kind in remedy.Remedy.__args__}


def test_there_are_records():
    assert KEPT


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_table_beside_a_record_is_made_from_it(path):
    record = Record.load(path)
    assert record.complete
    further = path.stem.startswith("further")
    option = "--further " if further else ""
    assert record.command == f"python experiments/judge_situations.py {option}--out {path.relative_to(ROOT)}"
    assert judge.printed(record) == path.with_suffix(".txt").read_text()
    assert len({trial["kind"] for trial in record.trials.values()}) == len(judge.FURTHER if further else judge.KINDS)


def test_causes_that_are_forbidden_exist():
    assert set(CAUSES) >= situation.NOT_PLANTED

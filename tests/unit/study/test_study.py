import json
from dataclasses import replace

import pytest
import torch
from inline_snapshot import snapshot

from truenorm.data.images import ImageSet, Split, load
from truenorm.errors import Diverged, InvalidInput, TruenormError, UnknownName
from truenorm.record import Record
from truenorm.study import study as module
from truenorm.study.configuration import StudyConfig, Trial
from truenorm.study.study import run_study

SMALL = StudyConfig(
    limit=100, epochs=1, batch_size=16, widths=(12,), seeds=1, momenta=(0.5,), arms=("dmbn", "adaptive")
)
OUTCOMES = {"accuracy", "sensitivity", "specificity", "f_score", "nll"}


@pytest.fixture
def run(tmp_path):
    def run(config=SMALL, **options):
        return run_study(config, command="truenorm study", out=tmp_path / "out", **options)

    return run


def refused(run, error=InvalidInput, **changes):
    with pytest.raises(error) as caught:
        run(replace(SMALL, **changes))
    return str(caught.value)


def test_the_record_says_what_was_done(tiny, tiny_record):
    record = tiny_record
    assert record.complete
    assert record.command == "truenorm study --tiny"
    assert record.configuration["momenta"] == (0.01, 0.1, 0.5)
    assert record.configuration["arms"][-2:] == ["bn-bfn", "gn"]
    assert record.configuration["data_summary"]["train"] == 200
    assert record.configuration["test_balanced"] is False
    assert record.machine["device"] == "cpu"
    assert record.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert [(t["norm"], t["seed"]) for t in record.trials.values()] == [
        ("bn", 0), ("bn-bfn", 0), ("gn", 0), ("bn", 1), ("bn-bfn", 1), ("gn", 1),
    ]  # fmt: skip
    assert {row.trial for row in record.rows} == set(record.trials)
    assert next(iter(record.trials)) == Trial(norm="bn", lr=0.05, seed=0, study=tiny).id


def test_the_file_is_the_record(run, tmp_path):
    record = run()
    loaded = Record.load(tmp_path / "out")
    assert loaded.rows == record.rows
    assert loaded == Record.loads(record.dumps())
    json.loads((tmp_path / "out" / "record.json").read_text(), parse_constant=pytest.fail)


def test_the_same_study_twice(tiny, tiny_record, tmp_path):
    torch.rand(7)  # whatever was drawn before
    assert run_study(tiny, command="x", out=tmp_path).rows == tiny_record.rows


def test_this_comparison_sees_another_seed(tiny_record):
    """Planted: the rows of two seeds are not the same."""
    by_seed = {0: [], 1: []}
    for row in tiny_record.rows:
        by_seed[tiny_record.trials[row.trial]["seed"]].append((row.arm, row.layer, row.metric, row.value))
    assert len(by_seed[0]) == len(by_seed[1])
    assert by_seed[0] != by_seed[1]


def test_other_arms_change_nothing_in_those_that_are_there(tiny, tiny_record, tmp_path):
    few = run_study(replace(tiny, arms=("adaptive", "gn")), command="x", out=tmp_path)
    assert set(few.rows) < set(tiny_record.rows)
    assert {row.arm for row in few.rows} == {"bn", "static-0.1", "adaptive", "gn"}


# What must not look at the test images.


def spoiled(images):
    """The same set with noise for test images, and their labels shuffled."""
    shape = images.test.images.shape
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(noise), generator=torch.Generator().manual_seed(2))
    return ImageSet(
        name=images.name, classes=images.classes, train=images.train, validation=images.validation,
        test=Split(noise, images.test.labels[order]), notes=images.notes, imbalance=images.imbalance,
    )  # fmt: skip


def rows_of(record, outcomes):
    return [row for row in record.rows if (row.metric in OUTCOMES) == outcomes]


RATES = replace(SMALL, lr=(0.001, 0.1, 0.02), arms=("all",), epochs=2)


def test_test_images_and_labels_decide_nothing(run, monkeypatch):
    honest = run(RATES)
    monkeypatch.setattr(module, "load", lambda *args, **options: spoiled(load(*args, **options)))
    other = run(RATES)
    assert rows_of(other, False) == rows_of(honest, False)
    assert other.trials == honest.trials
    # They do decide the outcomes, so the spoiling was seen.
    assert rows_of(other, True) != rows_of(honest, True)


def test_scored_against_test_images_the_arms_are_still_chosen_on_training_images(run):
    honest, leaking = run(), run(replace(SMALL, reference="test"))

    def of(record, *metrics):
        return [(row.arm, row.layer, row.metric, row.value) for row in record.rows if row.metric in metrics]

    assert of(leaking, "momentum", *OUTCOMES) == of(honest, "momentum", *OUTCOMES)
    assert of(leaking, "shift.joint") != of(honest, "shift.joint")
    assert {row.n for row in leaking.rows if row.metric == "shift.arriving"} == {359}
    assert leaking.trials.keys() == honest.trials.keys()


def test_a_last_batch_of_one_test_image_does_not_end_the_study(run):
    # 359 test images in batches of 2: the last has no batch statistics.
    record = run(replace(SMALL, reference="test", batch_size=2))
    assert {row.n for row in record.rows if row.metric == "shift.joint"} == {358}


# Learning rates.


def chosen(record):
    return {trial["norm"]: trial["lr"] for trial in record.trials.values() if "tuning" not in trial}


def test_the_rate_is_chosen_on_validation_images(run):
    record = run(RATES)
    tried = {}
    for row in record.rows:
        if row.metric == "validation_accuracy":
            tried.setdefault(row.arm, {})[record.trials[row.trial]["lr"]] = row.value
    assert {arm: set(found) for arm, found in tried.items()} == {norm: set(RATES.lr) for norm in ("bn", "bn-bfn", "gn")}
    assert chosen(record) == {arm: max(found, key=found.get) for arm, found in tried.items()}
    assert tried["bn"][0.001] < tried["bn"][0.1]


def test_a_chosen_rate_trains_as_if_it_had_been_given(run):
    record = run(RATES)
    alone = run(replace(RATES, lr=(chosen(record)["bn"],), arms=("all",)))
    bn = [row for row in record.rows if row.trial in alone.trials and row.metric != "validation_accuracy"]
    assert [row for row in alone.rows if alone.trials[row.trial]["norm"] == "bn"] == [
        row for row in bn if record.trials[row.trial]["norm"] == "bn"
    ]


def test_rates_that_were_only_tried_are_marked(run):
    record = run(replace(SMALL, lr=(0.001, 0.1)))
    marks = {trial["lr"]: trial.get("tuning", False) for trial in record.trials.values()}
    assert marks == {0.001: True, 0.1: False}


def test_a_rate_that_diverges_is_noted_and_not_chosen(run):
    record = run(replace(SMALL, lr=(0.05, 1e30)))
    assert chosen(record) == {"bn": 0.05}
    assert record.notes[-1] == snapshot("bn diverged at rate 1e+30 when rates were tried")
    assert record.complete
    assert {trial["lr"] for trial in record.trials.values()} == {0.05}


def test_rates_that_all_diverge(run, tmp_path):
    assert refused(run, Diverged, lr=(1e25, 1e30)) == snapshot(
        "bn diverged at every rate of --lr 1e+25 1e+30; try smaller ones"
    )
    assert not (tmp_path / "out" / "record.json").exists()


def test_rates_without_images_to_choose_by(run):
    assert refused(run, lr=(0.05, 0.1), validation=0) == snapshot(
        "--lr gives 2 rates, and no validation images to choose one by; give one rate"
    )
    assert run(replace(SMALL, validation=0)).configuration["data_summary"]["validation"] == 0


# Said before anything is trained.


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(module, "run", lambda *args: pytest.fail("it trained"))
    monkeypatch.setattr(module, "validation_accuracy", lambda *args: pytest.fail("it trained"))


def test_what_cannot_be_done_is_said_first(run, no_training, tmp_path):
    assert refused(run, UnknownName, network="resnet") == snapshot(
        "unknown network 'resnet'. Known: cnn, file.py:factory, mlp"
    )
    assert refused(run, bfn="group:64", arms=("bn-bfn",), widths=(16, 128)) == snapshot(
        "64 groups of 128 channels leave 2 values per group for input (2, 128); below 4 a group's output collapses, "
        "so take fewer groups"
    )
    assert refused(run, bfn="grup") == snapshot(
        "--bfn 'grup' is not a batch-free norm; it takes group:G (such as group:4), layer or instance"
    )
    assert refused(run, device="gpu") == snapshot("--device 'gpu' is no device; it takes cpu or cuda")
    assert refused(run, momenta=(2.0,)) == snapshot(
        "momentum 2 is outside (0, 1]; torch's momentum is the weight of the new batch"
    )
    assert refused(run, limit=5) == snapshot("limit is 5; expected one image or more for each of the 10 classes")
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_gpu_that_is_not_there(run, no_training, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(run, device="cuda") == snapshot("--device cuda: torch finds no CUDA GPU here; leave it at cpu")


OWN = """
from torch import nn

def pooled(norm_layer):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm_layer(4), nn.Linear(4, 10))

def without(norm_layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("rates", [(0.05,), (0.05, 0.1)])
def test_a_network_whose_layer_gets_one_value_per_channel(run, no_training, tmp_path, monkeypatch, rates):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN)
    told = refused(run, network="net.py:pooled", batch_size=1, lr=rates)
    assert told == snapshot(
        "layer '3' got a batch of one value per channel, shape (1, 4): it has no variance to train on; use a larger "
        "batch, or drop_last for the last one"
    )


def test_a_network_without_batch_norm(run, no_training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN)
    assert refused(run, TruenormError, network="net.py:without") == snapshot(
        "network net.py:without: Sequential has no batch-norm layer with running statistics; does it use norm_layer?"
    )


DROPPING = """
from torch import nn

def make(norm_layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(), norm_layer(12), nn.ReLU(), nn.Linear(12, 10))
"""


def test_a_network_that_draws_numbers_is_the_same_whatever_was_drawn_before(
    run, tmp_path, monkeypatch, no_global_draws
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(DROPPING)
    config = replace(SMALL, network="net.py:make", arms=("all",), seeds=2)
    first = run(config)
    with torch.random.fork_rng():
        torch.rand(5)
        assert run(config).rows == first.rows
    few = run(replace(config, arms=("update_bn",)))
    assert set(few.rows) < set(first.rows)


# On the way.


def test_progress_counts_every_step(tiny, tmp_path):
    calls = []
    run_study(replace(tiny, lr=(0.05, 0.1)), command="x", out=tmp_path, progress=lambda *call: calls.append(call))
    reading = [call for call in calls if call[0] == "reading images"]
    assert reading[-1][1] == reading[-1][2] == 200 + 239 + 359
    working = [call for call in calls if call[0] != "reading images"]
    # 3 networks, 2 seeds and 2 rates tried, 2 epochs of 13 batches.
    total = 3 * (2 + 2) * 2 * 13
    assert [(done, of) for _, done, of in working] == [(done, total) for done in range(1, total + 1)]
    assert list(dict.fromkeys(what for what, _, _ in working)) == snapshot(
        [
            "bn, trying rate 0.05",
            "bn, trying rate 0.1",
            "bn-bfn, trying rate 0.05",
            "bn-bfn, trying rate 0.1",
            "gn, trying rate 0.05",
            "gn, trying rate 0.1",
            "bn, seed 0",
            "bn-bfn, seed 0",
            "gn, seed 0",
            "bn, seed 1",
            "bn-bfn, seed 1",
            "gn, seed 1",
        ]
    )


def test_progress_goes_on_behind_a_rate_that_diverged(tmp_path):
    calls = []
    config = replace(SMALL, lr=(1e30, 0.05), epochs=2)
    run_study(config, command="x", out=tmp_path, progress=lambda *call: calls.append(call))
    done, total = calls[-1][1:]
    assert done == total == 3 * 2 * 7


class Stop:
    """Ctrl-C when a trial begins."""

    def __init__(self, at):
        self.at = at

    def __call__(self, what, done, total):
        if what == self.at:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_trials_that_ended(run, tmp_path):
    config = replace(SMALL, seeds=2)
    whole = run(config)
    (tmp_path / "out" / "record.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=Stop("bn, seed 1"))
    kept = Record.load(tmp_path / "out")
    assert not kept.complete
    assert [trial["seed"] for trial in kept.trials.values()] == [0]
    assert kept.rows == tuple(row for row in whole.rows if row.trial in kept.trials)
    assert len(kept.rows) < len(whole.rows)


def test_ctrl_c_in_the_first_trial_leaves_the_old_record(run, tmp_path):
    run()
    before = (tmp_path / "out" / "record.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(progress=Stop("bn, seed 0"))
    assert (tmp_path / "out" / "record.json").read_bytes() == before


def test_a_training_that_diverges_keeps_the_trials_that_ended(run, tmp_path, monkeypatch):
    real = module.run

    def second_fails(trial, *args):
        if trial.seed == 1:
            raise Diverged("training diverged")
        return real(trial, *args)

    monkeypatch.setattr(module, "run", second_fails)
    with pytest.raises(Diverged):
        run(replace(SMALL, seeds=2))
    assert not Record.load(tmp_path / "out").complete


# Data.


def test_a_long_tail(run):
    record = run(replace(SMALL, limit=None, imbalance=10.0))
    summary = record.configuration["data_summary"]
    assert summary["imbalance"] == 10.0
    assert summary["train"] < 600
    assert [note for note in record.notes if "imbalance" in note] == snapshot(
        ["imbalance 10: kept 490 of 1199 train, 98 of 239 validation, 148 of 359 test images"]
    )
    tests = {row.n for row in record.rows if row.metric == "accuracy"}
    assert tests == {summary["test"]}
    accuracy, sensitivity = (
        next(row.value for row in record.rows if row.metric == m) for m in ("accuracy", "sensitivity")
    )
    assert accuracy != sensitivity


@pytest.mark.parametrize("network", ["cnn"])
def test_the_other_network(run, network):
    record = run(replace(SMALL, network=network, arms=("all",), batch_size=1))
    assert {row.layer for row in record.rows if row.arm == "dmbn" and row.layer} == {"norm1", "norm2", "norm3", "norm4"}
    assert {row.layer for row in record.rows if row.arm == "bn-bfn" and row.layer} == {"norm1", "norm3"}


def test_adam(run):
    a, b = run(replace(SMALL, optimizer="adamw", lr=(0.01,))), run(replace(SMALL, lr=(0.01,)))
    assert rows_of(a, True) != rows_of(b, True)
    assert a.complete

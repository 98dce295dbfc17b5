import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot

from truenorm.errors import Diverged, InvalidInput, TruenormError, UnknownName
from truenorm.lab.images.sets import ImageSet, Split, load
from truenorm.lab.study import context, study
from truenorm.lab.study.configuration import StudyConfig, StudyTrial
from truenorm.lab.study.study import run_study
from truenorm.record import Record

SMALL = StudyConfig(
    limit=100, epochs=1, batch_sizes=(16,), widths=(12,), seeds=1, momenta=(0.5,), arms=("dmbn", "adaptive")
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
    assert record.configuration["images"]["digits"]["train"] == 200
    assert record.configuration["images"]["digits"]["balanced"] is False
    assert record.machine["device"] == "cpu"
    assert record.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert [(t["norm"], t["seed"]) for t in record.trials.values()] == [
        ("bn", 0), ("bn-bfn", 0), ("gn", 0), ("bn", 1), ("bn-bfn", 1), ("gn", 1),
    ]  # fmt: skip
    assert {row.trial for row in record.rows} == set(record.trials)
    assert next(iter(record.trials)) == StudyTrial(norm="bn", lr=0.05, seed=0, setting=tiny.settings[0]).id


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
    assert {row.arm for row in few.rows if row.metric == "accuracy"} == {"static-0.1", "adaptive", "gn"}
    # Of the rest of the sweep only what costs nothing is said.
    rest = {row.metric for row in few.rows if row.arm in ("static-0.01", "static-0.5")}
    assert rest == {"shift.joint"}


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
    monkeypatch.setattr(context, "load", lambda *args, **options: spoiled(load(*args, **options)))
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
    record = run(replace(SMALL, reference="test", batch_sizes=(2,)))
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
    marks = [(trial["lr"], trial.get("tuning", False)) for trial in record.trials.values()]
    assert marks == [(0.001, True), (0.1, True), (0.1, False)]


def test_a_rate_that_diverges_is_noted_and_not_chosen(run):
    record = run(replace(SMALL, lr=(0.05, 1e30)))
    assert chosen(record) == {"bn": 0.05}
    assert record.notes[-1] == snapshot(
        "bn, trying rates (digits, mlp, batch 16, cosine rate): training diverged in epoch 1 by step 7: the loss is nan at --lr 1e+30; try a smaller rate"
    )
    assert record.complete
    assert [(trial["lr"], "diverged" in trial) for trial in record.trials.values()] == [
        (0.05, False), (1e30, True), (0.05, False),
    ]  # fmt: skip


def test_rates_that_all_diverge(run, tmp_path):
    assert refused(run, Diverged, lr=(1e25, 1e30)) == snapshot(
        "every training diverged; the first was bn, trying rates (digits, mlp, batch 16, cosine rate): training diverged in epoch 1 by step 7: the loss is nan at --lr 1e+25; try a smaller rate"
    )
    kept = Record.load(tmp_path / "out")
    assert kept.rows == ()
    assert all("diverged" in trial for trial in kept.trials.values())


def test_rates_without_images_to_choose_by(run):
    assert refused(run, lr=(0.05, 0.1), validation=0) == snapshot(
        "--lr gives 2 rates, and no validation images to choose one by; give one rate"
    )
    assert run(replace(SMALL, validation=0)).configuration["images"]["digits"]["validation"] == 0


# Said before anything is trained.


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(study, "measure_trial", lambda *args: pytest.fail("it trained"))


def test_what_cannot_be_done_is_said_first(run, no_training, tmp_path):
    assert refused(run, UnknownName, networks=("resnet",)) == snapshot(
        "unknown network 'resnet'; did you mean 'resnet50' or 'resnet18'? Known: cnn, file.py:factory, mlp, resnet18, resnet18-w16, resnet50, timm:NAME"
    )
    assert refused(run, bfn="group:64", arms=("bn-bfn",), widths=(16, 128)) == snapshot(
        "network mlp with bn-bfn, layer 'norm2': 64 groups of 128 channels leave 2 values per group for input (2, 128); below 4 a group's output collapses, so take fewer groups: --bfn layer, or wider layers"
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
    told = refused(run, networks=("net.py:pooled",), batch_sizes=(1,), lr=rates)
    assert told == snapshot(
        "layer '3' got a batch of one value per channel, shape (1, 4): it has no variance to train on; use a larger "
        "batch, or drop_last for the last one"
    )


def test_a_network_without_batch_norm(run, no_training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN)
    assert refused(run, TruenormError, networks=("net.py:without",)) == snapshot(
        "network net.py:without: Sequential has no batch-norm layer with running statistics; does it use norm_layer?"
    )


TWICE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, norm_layer):
        super().__init__()
        self.a, self.b, self.norm, self.out = nn.Linear(64, 8), nn.Linear(8, 8), norm_layer(8), nn.Linear(8, 10)

    def forward(self, x):
        return self.out(self.norm(self.b(self.norm(self.a(x.flatten(1))))))

make = Net
"""

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
    config = replace(SMALL, networks=("net.py:make",), arms=("all",), seeds=2)
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
    reading = [call for call in calls if call[0] == "reading digits"]
    assert reading[-1][1] == reading[-1][2] == 200 + 239 + 359
    working = [call for call in calls if call[0] != "reading digits"]
    # 3 networks, 2 seeds and 2 rates tried, 2 epochs of 13 batches.
    total = 3 * (2 + 2) * 2 * 13
    # Each step, and once more the end of each training.
    counted = [done for _, done, of in working if of == total]
    assert len(counted) == len(working) == total + 3 * (2 + 2)
    assert list(dict.fromkeys(counted)) == list(range(1, total + 1))
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
    whole = run_study(config, command="truenorm study", out=tmp_path / "whole")
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
        run(replace(SMALL, epochs=2), progress=Stop("bn, seed 0"))
    assert (tmp_path / "out" / "record.json").read_bytes() == before


@pytest.fixture
def second_seed_diverges(monkeypatch):
    real = study.measure_trial

    def second_fails(trial, *args):
        if trial.seed == 1:
            raise Diverged("training diverged in epoch 1")
        return real(trial, *args)

    monkeypatch.setattr(study, "measure_trial", second_fails)


def test_a_training_that_diverges_is_marked_and_the_others_go_on(run, tmp_path, second_seed_diverges):
    record = run(replace(SMALL, seeds=3))
    assert record.complete
    assert [trial.get("diverged") for trial in record.trials.values()] == [None, "training diverged in epoch 1", None]
    assert not any("diverged" in note for note in record.notes)  # the report says it where it shows the setting
    seeds = {record.trials[row.trial]["seed"] for row in record.rows}
    assert seeds == {0, 2}
    assert Record.load(tmp_path / "out").notes == record.notes
    # It is a result: the same command does not train it again.
    assert run(replace(SMALL, seeds=3)) == record


@pytest.mark.parametrize("config", [replace(SMALL, lrs=(1000.0, 0.05)), replace(SMALL, lr=(1000.0, 0.05))])
def test_a_training_that_ends_beyond_the_finite_numbers_is_marked(run, config):
    """The loss is finite to the last step, and what is measured afterwards is not."""
    record = run(replace(config, limit=100, epochs=2))
    assert record.complete
    marked = {trial["lr"]: trial.get("diverged") for trial in record.trials.values()}
    assert marked[0.05] is None
    assert marked[1000.0] is None or "finite" in marked[1000.0]
    if config.lrs:
        assert marked[1000.0] == snapshot(
            "after training, the values that reach layer 'norm1' are not finite; try a smaller --lr"
        )


def test_a_network_that_calls_a_norm_twice(run, no_training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(TWICE)
    assert refused(run, networks=("net.py:make",)) == snapshot(
        "layer 'norm' is called 2 times in one forward: it sees several populations, and one set of statistics is true to none; give each call a norm of its own"
    )


def test_the_record_is_not_written_for_every_trial(run, monkeypatch):
    """A large one would mostly be being written."""
    written = []
    save = Record.save
    monkeypatch.setattr(Record, "save", lambda record, path: (written.append(Path(path).name), save(record, path)))
    run(replace(SMALL, seeds=5))
    assert written.count("record.json") == 2  # with the first trial, and at the end
    assert len(written) == 5 + 2


def test_settings_are_as_they_are_alone(run, tmp_path):
    both = run(replace(SMALL, batch_sizes=(16, 32), schedules=("constant", "cosine")))
    alone = run_study(replace(SMALL, schedules=("constant",)), command="x", out=tmp_path / "alone")
    (name,) = alone.trials
    assert [row for row in both.rows if row.trial == name] == list(alone.rows)
    assert [(t["batch_size"], t["schedule"]) for t in both.trials.values()] == [
        (16, "constant"), (16, "cosine"), (32, "constant"), (32, "cosine"),
    ]  # fmt: skip


def test_what_is_noted_of_every_setting_is_noted_once(run):
    record = run(replace(SMALL, batch_sizes=(16, 32), arms=("bn-bfn",)))
    assert [note for note in record.notes if "bn-bfn" in note] == snapshot(
        ["bn-bfn is plain batch norm here: the network has one norm, and the first is batch norm"]
    )


def test_shift_is_followed_through_training(run):
    record = run(replace(SMALL, epochs=3, arms=("all",)))
    followed = {}
    for row in record.rows:
        name, _, epoch = row.metric.partition("@")
        if epoch:
            assert row.layer is None
            followed.setdefault((row.arm, name), []).append(int(epoch))
    assert set(map(tuple, followed.values())) == {(1, 2, 3)}
    assert sorted(arm for arm, name in followed if name == "shift.joint") == snapshot(
        ["adaptive", "cumulative", "dmbn", "dmbn-online", "dynamic", "last-epoch", "pooled-0.1", "static-0.1"]
    )
    assert sorted(arm for arm, name in followed if name == "training_loss") == ["bn", "bn-bfn", "gn"]


def test_augmented_images_are_for_training_alone(run, tmp_path):
    plain = run()
    augmented = run(replace(SMALL, augment=("crop", "flip")))
    assert rows_of(augmented, True) != rows_of(plain, True)
    assert augmented.rows == run_study(replace(SMALL, augment=("crop", "flip")), command="x", out=tmp_path / "2").rows


def test_another_file_of_the_users_network_is_another_trial(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = replace(SMALL, networks=("net.py:make",))
    (tmp_path / "net.py").write_text(DROPPING)
    first = run(own)
    (tmp_path / "net.py").write_text(DROPPING.replace("nn.Dropout()", "nn.Identity()"))
    assert run(own).rows != first.rows


# Data.


def test_a_long_tail(run):
    record = run(replace(SMALL, limit=None, imbalance=10.0))
    summary = record.configuration["images"]["digits"]
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
    record = run(replace(SMALL, networks=(network,), arms=("all",), batch_sizes=(1,)))
    assert {row.layer for row in record.rows if row.arm == "dmbn" and row.layer} == {"norm1", "norm2", "norm3", "norm4"}
    assert {row.layer for row in record.rows if row.arm == "bn-bfn" and row.layer} == {"norm1", "norm3"}


def test_adam(run):
    a, b = run(replace(SMALL, optimizer="adamw", lr=(0.01,))), run(replace(SMALL, lr=(0.01,)))
    assert rows_of(a, True) != rows_of(b, True)
    assert a.complete

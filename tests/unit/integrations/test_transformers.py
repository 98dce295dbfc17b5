"""The Trainer callback: what a run writes, what it says, and that it is the run without it."""

import importlib
import inspect
import sys
import textwrap
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import truenorm as tn
from truenorm.errors import InvalidInput, MissingExtra
from truenorm.rules import Static

pytestmark = pytest.mark.slow  # trainings in a framework


@pytest.fixture(scope="module")
def transformers(torchvision):
    """transformers, whose Trainer needs accelerate and imports torchvision."""
    pytest.importorskip("accelerate", reason="accelerate is not installed", exc_type=ImportError)
    return pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def kit(transformers):
    """What needs transformers to be defined."""
    from transformers.modeling_outputs import ImageClassifierOutput

    from truenorm.integrations.transformers import TrueNorm

    class Config(transformers.PreTrainedConfig):
        model_type = "tiny"

    class Net(transformers.PreTrainedModel):
        """A momentum so small that the statistics stay what they were at the start."""

        config_class = Config

        def __init__(self, config, momentum=0.001):
            super().__init__(config)
            self.net = nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)
            )
            self.post_init()

        def forward(self, pixel_values, labels=None):
            logits = self.net(pixel_values)
            return ImageClassifierOutput(
                loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits
            )

    return SimpleNamespace(
        Callback=transformers.TrainerCallback,
        Config=Config,
        Net=Net,
        Output=ImageClassifierOutput,
        Trainer=transformers.Trainer,
        TrainingArguments=transformers.TrainingArguments,
        TrueNorm=TrueNorm,
    )


def samples(number, seed):
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed)) + 5
    return [{"pixel_values": row, "labels": int(row.sum() > 20)} for row in x]


TRAIN, HELD_OUT = samples(192, 0), samples(128, 1)
EPOCHS = {"save_strategy": "epoch", "eval_strategy": "epoch"}
STEPS = {
    "save_strategy": "steps",
    "save_steps": 5,  # within an epoch, whose workers outlive it
    "eval_strategy": "steps",
    "eval_steps": 3,
    "dataloader_num_workers": 1,
    "dataloader_persistent_workers": True,
}
BEST = {"save_strategy": "best", "eval_strategy": "epoch", "metric_for_best_model": "eval_loss", "epochs": 3}
WITHOUT_EVALUATION = {"save_strategy": "steps", "save_steps": 6, "epochs": 1}


def trainer_of(kit, folder, *callbacks, net=None, train=TRAIN, held_out=HELD_OUT, epochs=2, **options):
    torch.manual_seed(0)
    arguments = kit.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=0.05,
        logging_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    net = (net or kit.Net)(kit.Config())
    return kit.Trainer(net, arguments, train_dataset=train, eval_dataset=held_out, callbacks=[*callbacks])


def fit(kit, folder, *callbacks, **options):
    """A run of six steps an epoch; the network, and the checkpoints it wrote, in order."""
    trainer = trainer_of(kit, folder, *callbacks, **options)
    trainer.train()
    return trainer.model, sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@contextmanager
def warned():
    """What the callback says in warnings, once each."""
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    ours = (str(warning.message) for warning in caught if Path(warning.filename).parent.name == "integrations")
    said += dict.fromkeys(ours)


def loaded(kit, path):
    return kit.Net.from_pretrained(path).eval()


def stacked(part):
    return torch.stack([row["pixel_values"] for row in part])


def accuracy(net):
    with torch.no_grad():
        chosen = net.eval()(stacked(HELD_OUT)).logits.argmax(1)
    return (chosen == torch.tensor([row["labels"] for row in HELD_OUT])).double().mean().item()


def population(net):
    """What the layers of a network should carry."""
    return tn.measure(net, [stacked(TRAIN)], flow="sequential")


def assert_same_statistics(actual, expected, tolerance=1e-5):
    assert list(actual) == list(expected)
    for layer in expected:
        for value, other in ((actual[layer].mean, expected[layer].mean), (actual[layer].var, expected[layer].var)):
            torch.testing.assert_close(value.float(), other.float(), rtol=tolerance, atol=tolerance)


def assert_unequal_statistics(actual, expected, tolerance=1e-5):
    with pytest.raises(AssertionError):
        assert_same_statistics(actual, expected, tolerance)


@pytest.mark.parametrize(
    ("strategy", "tolerance"),
    # Without evaluation batches half of the training ones decide, and the other half is measured.
    [(EPOCHS, 1e-5), (STEPS, 1e-5), (BEST, 1e-5), (WITHOUT_EVALUATION, 0.2)],
    ids=["epochs", "steps", "best", "without evaluation"],
)
def test_what_is_written_is_mended_and_the_run_is_the_one_without_it(kit, tmp_path, strategy, tolerance):
    class Trace(kit.Callback):
        def __init__(self):
            self.seen = []

        def on_step_end(self, args, state, control, model, **kwargs):
            self.seen.append([value.clone() for value in (*model.state_dict().values(), torch.get_rng_state())])

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            self.seen.append([torch.tensor(metrics["eval_loss"])])

    without, with_it = Trace(), Trace()
    plain, before = fit(kit, tmp_path / "without", without, **strategy)
    mended, after = fit(kit, tmp_path / "with", with_it, kit.TrueNorm(gap=1.0), **strategy)
    assert len(with_it.seen) == len(without.seen) >= 6
    for step, expected in zip(with_it.seen, without.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(step, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mended.parameters(), plain.parameters(), strict=True))
    assert [path.name for path in after] == [path.name for path in before] and after
    for old, new in zip(before, after, strict=True):
        for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert (old / file).read_bytes() == (new / file).read_bytes()
        old, new = loaded(kit, old), loaded(kit, new)
        assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
        assert_unequal_statistics(tn.statistics(old), population(old), tolerance)
        assert_same_statistics(tn.statistics(new), population(new), tolerance)
    assert accuracy(new) > accuracy(old) + 0.2


def test_the_model_is_mended_when_training_ends(kit, tmp_path):
    callback = kit.TrueNorm()
    net, _ = fit(kit, tmp_path, callback, save_strategy="no", eval_strategy="epoch")
    assert callback.repaired.chosen == "joint"
    assert_same_statistics(tn.statistics(net), population(net))
    kept, _ = fit(kit, tmp_path, kit.TrueNorm(repair=False), save_strategy="no")
    assert_unequal_statistics(tn.statistics(kept), population(kept))


def test_the_best_model_that_is_loaded_is_mended(kit, tmp_path):
    net, paths = fit(kit, tmp_path, kit.TrueNorm(), load_best_model_at_end=True, **EPOCHS)
    assert len(paths) == 2
    assert_same_statistics(tn.statistics(net), population(net))


def test_an_evaluation_outside_of_training_changes_nothing(kit, tmp_path):
    trainer = trainer_of(kit, tmp_path, kit.TrueNorm(gap=1.0), **BEST)
    before = [value.clone() for value in trainer.model.state_dict().values()]
    trainer.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.state_dict().values(), before, strict=True))


def test_samples_that_lie_sorted_are_read_shuffled(kit, tmp_path):
    """The first ones are of one class only."""
    ordered = sorted(TRAIN, key=lambda row: row["labels"])
    callback = kit.TrueNorm(data=DataLoader(ordered, batch_size=32), limit=32)
    net, _ = fit(kit, tmp_path, callback, epochs=1, **EPOCHS)
    true, of_one_class = population(net)["net.1"].mean, tn.measure(net, [stacked(ordered[:32])])["net.1"].mean
    off = (callback.repaired.statistics["net.1"].mean - true).norm()
    assert off < 0.5 * (of_one_class - true).norm()


def test_it_says_why_validation_falls_behind(kit, tmp_path, capsys):
    callback = kit.TrueNorm()
    fit(kit, tmp_path, callback, **EPOCHS)
    assert callback.diagnosis.cause == "initial values"
    assert capsys.readouterr().out.count("verdict") == 1  # it stays the same in the evaluations that follow


def test_how_far_apart_is_apart(kit, tmp_path):
    nan = float("nan")
    cases = [
        (1.0, 1.4, {}, False),
        (1.0, 1.6, {}, True),
        (1.0, 1.6, {"gap": 2}, False),
        (1.0, 1.6, {"diagnose": False}, False),
        (1.0, nan, {}, True),
        (nan, nan, {}, False),
        (-3.0, -2.0, {}, False),
        (-3.0, -1.0, {}, True),
    ]

    class Says(kit.Callback):
        def on_log(self, args, state, control, logs, **kwargs):
            state.log_history[-1] |= {f"loss {i}": case[0] for i, case in enumerate(cases)}

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics |= {f"eval_loss {i}": case[1] for i, case in enumerate(cases)}

    callbacks = [
        kit.TrueNorm(train=f"loss {i}", validation=f"eval_loss {i}", repair=False, **options)
        for i, (*_, options, _) in enumerate(cases)
    ]
    with warned() as said:
        fit(kit, tmp_path, Says(), *callbacks, epochs=1, **EPOCHS)
    assert [callback.diagnosis is not None for callback in callbacks] == [parted for *_, parted in cases]
    known = (
        "epoch, eval_loss, eval_runtime, eval_samples_per_second, eval_steps_per_second, grad_norm, learning_rate, loss, "
        f"{', '.join(f'loss {i}' for i in range(8))}, step, total_flos, train_loss, train_runtime, "
        "train_samples_per_second, train_steps_per_second"
    )
    assert said == [  # they are in no log
        f"training and validation were not compared: unknown metric 'eval_loss {i}'; did you mean 'eval_loss' or "
        f"'loss {i}'? Known: {known}"
        for i in (0, 1, 2, 4, 5, 6, 7)
    ]


def test_a_failure_ends_no_run(kit, tmp_path):
    def score(output, batch):
        raise KeyError("no such thing")

    plain, before = fit(kit, tmp_path / "without", epochs=1, **EPOCHS)
    with warned() as said:
        net, after = fit(kit, tmp_path / "with", kit.TrueNorm(score=score), epochs=1, **EPOCHS)
    assert said == snapshot(
        [
            "validation falls behind, and was not diagnosed: score(output, batch) failed: KeyError: 'no such thing'",
            "what is saved keeps the statistics it had: score(output, batch) failed: KeyError: 'no such thing'",
        ]
    )
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    old, new = loaded(kit, before[0]), loaded(kit, after[0])
    assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))


def test_losses_that_are_not_logged_are_told_about(kit, tmp_path):
    with warned() as said:
        fit(kit, tmp_path, kit.TrueNorm(train="training_loss", repair=False), epochs=1, **EPOCHS)
    assert [sentence.partition(" Known:")[0] for sentence in said] == snapshot(
        [
            "training and validation were not compared: unknown metric 'training_loss'; did you mean 'train_loss' or 'eval_loss'?"
        ]
    )


def test_what_is_frozen_by_eval_stays_frozen(kit, tmp_path):
    """At the end of an evaluation every layer is in eval()."""

    class Frozen(kit.Net):
        def __init__(self, config):
            super().__init__(config)
            self.net.insert(0, nn.BatchNorm1d(4))

        def train(self, mode=True):
            super().train(mode)
            self.net[0].eval()
            return self

    net, paths = fit(kit, tmp_path, kit.TrueNorm(gap=1.0), net=Frozen, **EPOCHS)
    assert len(paths) == 2
    for state in (net.state_dict(), *(Frozen.from_pretrained(path).state_dict() for path in paths)):
        assert torch.equal(state["net.0.running_mean"], torch.zeros(4))
        assert not torch.allclose(state["net.2.running_mean"], torch.zeros(8), atol=0.5)


def test_where_there_are_no_classes_the_loss_decides(kit, tmp_path):
    class Regression(kit.Net):
        def forward(self, pixel_values, labels=None):
            logits = self.net(pixel_values)
            return kit.Output(loss=None if labels is None else F.mse_loss(logits[:, 0], labels), logits=logits)

    parts = [[row | {"labels": float(row["pixel_values"].sum() - 20)} for row in part] for part in (TRAIN, HELD_OUT)]
    callback = kit.TrueNorm()
    fit(kit, tmp_path, callback, net=Regression, train=parts[0], held_out=parts[1], epochs=3, **EPOCHS)
    assert list(callback.repaired.scores["as it is"]) == ["score"] and callback.repaired.chosen
    assert callback.diagnosis.cause == "initial values"


def test_rules_follow_the_run(kit, tmp_path):
    def net(config):
        return kit.Net(config, momentum=0.5)

    callback = kit.TrueNorm(repair=False, diagnose=False, watch=[Static((0.1, 0.5))])
    watched, _ = fit(kit, tmp_path, callback, net=net, **EPOCHS)
    plain, _ = fit(kit, tmp_path, net=net, **EPOCHS)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    assert list(callback.watched) == ["static-0.1", "static-0.5"]
    assert_same_statistics(callback.watched["static-0.5"], tn.statistics(watched))
    assert_unequal_statistics(callback.watched["static-0.1"], tn.statistics(watched))
    with tn.watch(watched):  # it was left
        pass


def test_batches_can_be_given(kit, tmp_path):
    batch = {"pixel_values": stacked(TRAIN), "labels": torch.tensor([row["labels"] for row in TRAIN])}
    callback = kit.TrueNorm(data=[batch, batch], limit=None)
    fit(kit, tmp_path, callback, epochs=1, **EPOCHS)
    assert callback.repaired.notes == snapshot(("measured on 384 samples in batches of 192, scored on 128 held out",))


def test_options_that_make_no_sense_are_refused(kit):
    with pytest.raises(InvalidInput) as gap:
        kit.TrueNorm(gap=0.5)
    assert str(gap.value) == snapshot("gap is 0.5; expected the factor by which validation may be worse, 1 or more")


@pytest.mark.filterwarnings("ignore:.pin_memory. argument is set as true")  # the Trainer sets it
def test_the_example_runs(kit, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    example = textwrap.dedent(inspect.getdoc(kit.TrueNorm).split("Example (it runs with the tests):")[1])
    names = {}
    exec(example, names)
    assert capsys.readouterr().out.splitlines()[-1] == names["true_norm"].repaired.sentence


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "truenorm.integrations.transformers", raising=False)
    with pytest.raises(MissingExtra) as error:
        importlib.import_module("truenorm.integrations.transformers")
    assert str(error.value) == snapshot("transformers is not installed; run: pip install 'transformers[torch]>=5'")

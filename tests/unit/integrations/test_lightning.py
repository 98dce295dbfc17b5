"""The Lightning callback: what a run writes, what it says, and that it is the run without it."""

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
from torch.utils.data import DataLoader, TensorDataset

import truenorm as tn
from truenorm.errors import InvalidInput, MissingExtra, UnknownName
from truenorm.rules import Static

pytestmark = pytest.mark.slow  # trainings in a framework


@pytest.fixture(scope="module")
def lightning(torchvision):
    """Lightning, whose metrics import torchvision."""
    return pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def kit(lightning):
    """What needs lightning to be defined."""
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    from truenorm.integrations.lightning import TrueNorm

    class Net(lightning.LightningModule):
        """A momentum so small that the statistics stay what they were at the start."""

        def __init__(self, momentum=0.001):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)
            )

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, number):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, number):
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return SimpleNamespace(
        lightning=lightning, Net=Net, TrueNorm=TrueNorm, ModelCheckpoint=ModelCheckpoint, Ema=EMAWeightAveraging
    )


def samples(number, seed):
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed)) + 5
    return TensorDataset(x, (x.sum(1) > 20).long())


TRAIN, HELD_OUT = samples(192, 0), samples(128, 1)


def loaders():
    """The training one shuffles by a generator of its own: to iterate over it changes the run."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TRAIN, batch_size=32, shuffle=True, generator=generator), DataLoader(HELD_OUT, batch_size=64)


def fit(kit, folder, *callbacks, net=None, epochs=3, every=4, data=None, at_validation=False):
    """A run that writes a checkpoint every four steps, so within an epoch, too; what it wrote, in order."""
    torch.manual_seed(0)
    net = (net or kit.Net)()
    writer = kit.ModelCheckpoint(
        folder,
        "{step:02d}",
        every_n_train_steps=every,
        save_top_k=-1,
        save_on_train_epoch_end=False if at_validation else None,
    )
    trainer = kit.lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks, writer],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        default_root_dir=folder,
    )
    train, held_out = data or loaders()
    trainer.fit(net, train, held_out)
    return net, sorted(folder.glob("*.ckpt"))


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
    return kit.Net.load_from_checkpoint(path, weights_only=True).eval()


def accuracy(net):
    x, y = HELD_OUT.tensors
    with torch.no_grad():
        return (net.eval()(x).argmax(1) == y).double().mean().item()


def population(net):
    """What the layers of a network that was loaded should carry."""
    return tn.measure(net, [TRAIN.tensors], flow="sequential")


def assert_same_statistics(actual, expected):
    assert list(actual) == list(expected)
    for layer in expected:
        for value, other in ((actual[layer].mean, expected[layer].mean), (actual[layer].var, expected[layer].var)):
            torch.testing.assert_close(value.float(), other.float(), rtol=1e-5, atol=1e-5)


def assert_unequal_statistics(actual, expected):
    with pytest.raises(AssertionError):
        assert_same_statistics(actual, expected)


def test_checkpoints_hold_the_statistics_of_their_weights(kit, tmp_path):
    _, before = fit(kit, tmp_path / "without")
    _, after = fit(kit, tmp_path / "with", kit.TrueNorm())
    assert [path.name for path in after] == [path.name for path in before] and len(after) == 4
    for old, new in zip(before, after, strict=True):
        old, new = loaded(kit, old), loaded(kit, new)
        assert_unequal_statistics(tn.statistics(old), population(old))
        assert_same_statistics(tn.statistics(new), population(new))
    assert accuracy(new) > accuracy(old) + 0.2


def test_the_run_is_the_one_without_it(kit, tmp_path):
    class Trace(kit.lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.seen.append([value.clone() for value in (batch[0], *module.state_dict().values())])

        def on_validation_end(self, trainer, module):
            self.seen.append([trainer.callback_metrics["val_loss"].clone(), torch.get_rng_state()])

    without, with_it = Trace(), Trace()
    plain, before = fit(kit, tmp_path / "without", without)
    mended, after = fit(kit, tmp_path / "with", kit.TrueNorm(gap=1.0), with_it)
    assert len(with_it.seen) == len(without.seen) == 18 + 4
    for step, expected in zip(with_it.seen, without.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(step, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mended.parameters(), plain.parameters(), strict=True))
    for old, new in zip(before, after, strict=True):
        old, new = (torch.load(path, weights_only=True) for path in (old, new))
        differing = [key for key, value in new["state_dict"].items() if not torch.equal(value, old["state_dict"][key])]
        assert differing == ["net.1.running_mean", "net.1.running_var"]
        assert list(new["state_dict"]) == list(old["state_dict"])


def test_the_module_is_mended_when_training_ends(kit, tmp_path):
    callback = kit.TrueNorm()
    net, _ = fit(kit, tmp_path / "on", callback)
    assert callback.repaired.chosen == "joint"
    assert_same_statistics(tn.statistics(net), population(net))
    kept, _ = fit(kit, tmp_path / "off", kit.TrueNorm(repair=False))
    assert_unequal_statistics(tn.statistics(kept), population(kept))


def test_it_says_why_validation_falls_behind(kit, tmp_path, capsys):
    callback = kit.TrueNorm()
    fit(kit, tmp_path, callback)
    assert callback.diagnosis.cause == "initial values"
    assert capsys.readouterr().out.count("verdict") == 1  # it stays the same in the epochs that follow


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
        (0.9, 0.5, {"mode": "max"}, True),
        (0.9, 0.7, {"mode": "max"}, False),
        (0.5, 0.9, {"mode": "max"}, False),
    ]

    class Logs(kit.Net):
        def training_step(self, batch, number):
            self.log_dict({f"train {i}": case[0] for i, case in enumerate(cases)})
            return super().training_step(batch, number)

        def validation_step(self, batch, number):
            self.log_dict({f"validation {i}": case[1] for i, case in enumerate(cases)})

    callbacks = [
        kit.TrueNorm(train=f"train {i}", validation=f"validation {i}", repair=False, **options)
        for i, (*_, options, _) in enumerate(cases)
    ]
    fit(kit, tmp_path, *callbacks, net=Logs, epochs=1, every=100)
    assert [callback.diagnosis is not None for callback in callbacks] == [parted for *_, parted in cases]


def test_the_sanity_check_is_no_validation(kit, tmp_path):
    class Both(kit.Net):
        def validation_step(self, batch, number):
            self.log("train_loss", 1.0)
            self.log("val_loss", 9.0)

    seen = []

    class Look(kit.lightning.Callback):
        def on_sanity_check_end(self, trainer, module):
            seen.append((dict(trainer.callback_metrics), callback.diagnosis))

    callback = kit.TrueNorm(repair=False)
    fit(kit, tmp_path, callback, Look(), net=Both, epochs=1)
    assert seen == [({"train_loss": 1.0, "val_loss": 9.0}, None)]
    assert callback.diagnosis is not None


def test_a_failure_ends_no_run(kit, tmp_path):
    def score(output, batch):
        raise KeyError("no such thing")

    plain, before = fit(kit, tmp_path / "without", epochs=1)
    with warned() as said:
        net, after = fit(kit, tmp_path / "with", kit.TrueNorm(score=score), epochs=1)
    assert said == snapshot(
        [
            "the checkpoint keeps the statistics it had: score(output, batch) failed: KeyError: 'no such thing'",
            "validation falls behind, and was not diagnosed: score(output, batch) failed: KeyError: 'no such thing'",
            "the module keeps the statistics it had: score(output, batch) failed: KeyError: 'no such thing'",
        ]
    )
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    old, new = (torch.load(path, weights_only=True)["state_dict"] for path in (before[0], after[0]))
    assert all(torch.equal(new[key], old[key]) for key in old)


def test_a_module_that_cannot_be_called_is_told_about(kit, tmp_path):
    class Steps(kit.Net):
        forward = kit.lightning.LightningModule.forward

        def training_step(self, batch, number):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, number):
            pass

    with warned() as said:
        fit(kit, tmp_path, kit.TrueNorm(diagnose=False), net=Steps, epochs=1, every=100)
    assert said == snapshot(
        [
            'the module keeps the statistics it had: NotImplementedError: Module [Steps] is missing the required "forward" function'
        ]
    )
    callback = kit.TrueNorm(diagnose=False, forward=lambda module, batch: module.net(batch[0]))
    fit(kit, tmp_path, callback, net=Steps, epochs=1, every=100)
    assert callback.repaired.chosen


def test_metrics_that_are_not_logged_are_told_about(kit, tmp_path):
    with warned() as said:
        fit(kit, tmp_path, kit.TrueNorm(train="loss", repair=False), epochs=1)
    assert said == snapshot(
        [
            "training and validation were not compared: unknown metric 'loss'; did you mean 'val_loss' or 'train_loss'? Known: train_loss, val_loss"
        ]
    )


def test_checkpoints_of_weights_only_are_told_about(kit, tmp_path):
    with warned() as said:
        fit(kit, tmp_path, kit.TrueNorm(), kit.ModelCheckpoint(tmp_path / "light", save_weights_only=True), epochs=1)
    assert said == snapshot(
        [
            "checkpoints keep the statistics they have: for save_weights_only=True Lightning calls no callback; save them whole"
        ]
    )


def test_what_is_frozen_by_eval_stays_frozen(kit, tmp_path):
    """Where checkpoints are written at the end of validation every layer is in eval()."""

    class Frozen(kit.Net):
        def __init__(self):
            super().__init__()
            self.net.insert(0, nn.BatchNorm1d(4))

        def on_train_epoch_start(self):
            self.net[0].eval()

    net, paths = fit(kit, tmp_path, kit.TrueNorm(gap=1.0), net=Frozen, every=None, epochs=2, at_validation=True)
    assert len(paths) == 2
    for state in (net.state_dict(), *(torch.load(path, weights_only=True)["state_dict"] for path in paths)):
        assert torch.equal(state["net.0.running_mean"], torch.zeros(4))
        assert not torch.allclose(state["net.2.running_mean"], torch.zeros(8), atol=0.5)


def test_averaged_weights_have_their_own_statistics(kit, tmp_path):
    net, paths = fit(kit, tmp_path, kit.Ema(decay=0.9), kit.TrueNorm())
    averaged, own = loaded(kit, paths[-1]), kit.Net()
    saved = torch.load(paths[-1], weights_only=True)
    own.load_state_dict(saved["current_model_state"])
    assert not torch.equal(averaged.net[0].weight, own.net[0].weight)
    assert_same_statistics(tn.statistics(averaged), population(averaged))
    assert_unequal_statistics(tn.statistics(averaged), population(own))
    assert_same_statistics(tn.statistics(net), population(net))


def test_rules_follow_the_run(kit, tmp_path):
    callback = kit.TrueNorm(repair=False, diagnose=False, watch=[Static((0.1, 0.5))])
    net, _ = fit(kit, tmp_path / "watched", callback, net=lambda: kit.Net(momentum=0.5))
    plain, _ = fit(kit, tmp_path / "not", net=lambda: kit.Net(momentum=0.5))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
    assert list(callback.watched) == ["static-0.1", "static-0.5"]
    assert_same_statistics(callback.watched["static-0.5"], tn.statistics(net))
    assert_unequal_statistics(callback.watched["static-0.1"], tn.statistics(net))
    with tn.watch(net):  # it was left
        pass


def test_the_watch_is_left_when_a_run_fails(kit, tmp_path):
    class Fails(kit.Net):
        def on_train_epoch_end(self):
            raise OSError("disk full")

    net = Fails()
    with pytest.raises(OSError, match="disk full"):
        fit(kit, tmp_path, kit.TrueNorm(watch=[Static((0.1,))]), net=lambda: net)
    with tn.watch(net):
        pass


def test_batches_can_be_given(kit, tmp_path):
    callback = kit.TrueNorm(data=[TRAIN.tensors, HELD_OUT.tensors], limit=None)
    fit(kit, tmp_path, callback, epochs=1)
    assert callback.repaired.statistics.keys() == {"net.1"}
    assert callback.repaired.notes == snapshot(("measured on 320 samples in batches of 192, scored on 128 held out",))


def test_lists_of_loaders_give_their_first(kit, tmp_path):
    train, held_out = loaders()
    callback = kit.TrueNorm()
    fit(kit, tmp_path, callback, data=(train, [held_out]), epochs=1)
    assert callback.repaired.chosen


def test_samples_that_lie_sorted_are_read_shuffled(kit, tmp_path):
    """The first ones are of one class only."""
    x, y = TRAIN.tensors
    order = y.argsort(stable=True)
    callback = kit.TrueNorm(limit=32)
    net, _ = fit(kit, tmp_path, callback, data=(DataLoader(TensorDataset(x[order], y[order]), 32), loaders()[1]))
    true, of_one_class = population(net)["net.1"].mean, tn.measure(net, [x[order][:32]])["net.1"].mean
    off = (callback.repaired.statistics["net.1"].mean - true).norm()
    assert off < 0.5 * (of_one_class - true).norm()


def test_options_that_make_no_sense_are_refused(kit):
    with pytest.raises(InvalidInput) as gap:
        kit.TrueNorm(gap=0.5)
    with pytest.raises(UnknownName) as mode:
        kit.TrueNorm(mode="maximum")
    assert [str(gap.value), str(mode.value)] == snapshot(
        [
            "gap is 0.5; expected the factor by which validation may be worse, 1 or more",
            "unknown mode 'maximum'; did you mean 'max'? Known: max, min",
        ]
    )


def test_the_example_runs(kit, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    example = textwrap.dedent(inspect.getdoc(kit.TrueNorm).split("Example (it runs with the tests):")[1])
    names = {}
    exec(example, names)
    repaired = names["true_norm"].repaired
    assert repaired.chosen == "joint" and "accuracy" in repaired.gains["joint"]
    assert capsys.readouterr().out.splitlines()[-1] == repaired.sentence


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "truenorm.integrations.lightning", raising=False)
    with pytest.raises(MissingExtra) as error:
        importlib.import_module("truenorm.integrations.lightning")
    assert str(error.value) == snapshot("lightning is not installed; run: pip install 'lightning>=2.5'")

"""What a repair assigns, what it refuses, how it is undone; and that nothing is left where it was stopped."""

import copy
import itertools
import math
import pickle

import numpy as np
import oracle
import patients
import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import truenorm as tn
from truenorm.doctor.size import LIMIT
from truenorm.errors import InvalidInput, NotMeasurable
from truenorm.show import plain


@pytest.fixture
def net():
    """Its first layer holds the initial values."""
    return patients.never()[0]


@pytest.fixture
def data():
    return patients.blobs()


@pytest.fixture
def held_out():
    return patients.held_out()


def accuracy(net, data):
    x, y = patients.joined(data)
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == y).double().mean())


def test_it_mends_what_is_broken(net, data, held_out):
    before = accuracy(net, held_out)
    done = tn.repair(net, data, held_out=held_out)
    assert done.chosen in ("joint", "within", "sequential")
    assert done.scores["as it is"]["accuracy"] == pytest.approx(before)
    assert done.scores[done.chosen]["accuracy"] == pytest.approx(accuracy(net, held_out))
    assert accuracy(net, held_out) > before + 0.1
    assert done.gains[done.chosen]["accuracy"].mean == pytest.approx(accuracy(net, held_out) - before)
    assert tn.diagnose(net, held_out).healthy


def test_what_is_assigned_is_the_population_of_the_data(net, data, held_out):
    """Of all of them: held-out samples are given, so none is spared."""
    done = tn.repair(net, data, held_out=held_out)
    assert done.chosen == "joint"
    x, _ = patients.joined(data)
    with torch.no_grad():
        mean, var, count = oracle.moments(net.fc1(x).numpy())
    np.testing.assert_allclose(net.bn1.running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.bn1.running_var, var, rtol=1e-5)
    assert done.measured == count and done.held_out == "given"
    assert done.statistics["bn1"].mean.tolist() == net.bn1.running_mean.tolist()


def test_nothing_but_the_statistics_changes(net, data):
    weights = {key: value for key, value in patients.bits(net).items() if "running_" not in key}
    things = patients.everything_else(net)
    assert tn.repair(net, data).chosen
    patients.assert_same_bits({key: net.state_dict()[key] for key in weights}, weights)
    assert patients.everything_else(net) == things


def test_the_undo(net, data):
    before = patients.bits(net)
    done = tn.repair(net, data)
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())
    tn.assign(net, done.previous)
    patients.assert_same_bits(net.state_dict(), before)


def test_a_sound_network_is_left_alone(data):
    net = patients.sound()
    before = patients.bits(net)
    done = tn.repair(net, data)
    assert done.chosen is None
    assert done.previous == done.statistics == tn.statistics(net)
    patients.assert_same_bits(net.state_dict(), before)
    assert done.sentence == snapshot(
        "nothing was changed: no other statistics do better on held-out samples, beyond noise"
    )


@pytest.mark.parametrize("kind", ["noise", "another scale", "one class", "constant"])
@pytest.mark.parametrize("make", [patients.sound, lambda: patients.initial(0.05)[0]], ids=["sound", "a little broken"])
def test_it_refuses_to_make_worse(make, kind, held_out):
    """The data to measure are not those it will meet: the held-out samples tell."""
    net = make()
    x, y = patients.joined(patients.blobs())
    wrong = {"noise": torch.randn_like(x), "another scale": x / 255, "one class": x[y == 0], "constant": 0 * x + 1}
    images = wrong[kind]
    before, things = patients.bits(net), patients.everything_else(net)
    done = tn.repair(net, patients.cut(images, y[: len(images)]), held_out=held_out)
    assert done.chosen is None
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things
    assert all(gain["log likelihood"].mean < 0 for gain in done.gains.values())


def test_by_those_data_alone_it_would_not_have_refused(held_out):
    """Planted: the same with some of the wrong data held out, as a pass without a check does."""
    net = patients.sound()
    wrong = [(x / 255, y) for x, y in patients.blobs()]
    before = accuracy(net, held_out)
    assert tn.repair(net, wrong).chosen
    assert accuracy(net, held_out) < before - 0.1


def test_which_estimate_is_chosen_is_told_by_the_score(data):
    """By one that wants the variance within pairs, which is half of the population's, that is assigned."""
    net = patients.never()[0]
    pairs = patients.cut(*patients.joined(data), size=2)
    wanted = tn.measure(net, pairs, variance="within")["bn1"].var
    assert wanted.mean() < 0.6 * tn.measure(net, pairs)["bn1"].var.mean()
    done = tn.repair(net, pairs, score=lambda output, batch: -float((net.bn1.running_var - wanted).abs().max()))
    assert done.chosen == "within"
    assert done.scores["within"]["score"] == pytest.approx(-float((net.bn1.running_var - wanted).abs().max()))
    torch.testing.assert_close(net.bn1.running_var.double(), wanted, rtol=0.1, atol=0)


@pytest.mark.parametrize("make", [patients.not_finite, patients.negative])
def test_buffers_that_are_no_statistics_are_mended(make, data, held_out):
    net, _, _ = make()
    done = tn.repair(net, data)
    assert done.chosen
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert accuracy(net, held_out) == pytest.approx(accuracy(patients.sound(), held_out), abs=0.01)
    assert tn.repair(net, data).chosen is None


def test_momentum_and_track_running_stats_do_not_matter(data):
    expected = patients.bits(_repaired(patients.never()[0], data))
    for change in ({"momentum": 0.0}, {"momentum": None}, {"momentum": 0.99}, {"track_running_stats": False}):
        net = patients.never()[0]
        for layer in patients.norms(net):
            for name, value in change.items():
                setattr(layer, name, value)
        patients.assert_same_bits(patients.bits(_repaired(net, data)), expected)
        assert all(getattr(layer, name) == value for layer in patients.norms(net) for name, value in change.items())


def _repaired(net, data):
    assert tn.repair(net, data).chosen
    return net


def test_twice_is_once(net, data):
    tn.repair(net, data)
    before = patients.bits(net)
    assert tn.repair(net, data).chosen is None
    patients.assert_same_bits(net.state_dict(), before)


# Layers


def test_frozen_layers_are_left_alone(data, held_out):
    net = patients.sound()
    for layer in patients.norms(net):
        layer.reset_running_stats()
    tn.freeze(net, "bn1")
    frozen = {key: value for key, value in patients.bits(net).items() if key.startswith("bn1")}
    things = patients.everything_else(net)
    done = tn.repair(net.train(), data, held_out=held_out)
    assert done.chosen and "bn1" not in tn.measure(net, data)
    patients.assert_same_bits({key: net.state_dict()[key] for key in frozen}, frozen)
    assert not torch.equal(net.bn2.running_var, torch.ones(6))
    assert not net.bn1.training and patients.everything_else(net.eval())[0] == things[0]


def test_a_network_that_is_frozen_in_every_layer(net, data):
    tn.freeze(net)
    before = patients.bits(net)
    with pytest.raises(NotMeasurable, match="every batch-norm layer is frozen"):
        tn.repair(net, data)
    patients.assert_same_bits(net.state_dict(), before)


def test_half_precision_stays(data):
    net = patients.never()[0].double()
    for layer in patients.norms(net):
        layer.running_mean, layer.running_var = layer.running_mean.bfloat16(), layer.running_var.bfloat16()
    done = tn.repair(net.bfloat16(), [(x.bfloat16(), y) for x, y in data])
    assert done.chosen
    assert {value.dtype for key, value in net.state_dict().items() if "running_" in key} == {torch.bfloat16}


def test_a_layer_called_twice(data):
    net = patients.called_several_times()[0]
    assert tn.repair(net, data).chosen
    assert tn.measure(net, data)["norm"].count == 2 * len(patients.joined(data)[0])


def test_without_layers_that_keep_statistics(data):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(InvalidInput, match=r"no batch-norm layer with running statistics \(1: track_running_stats"):
        tn.repair(net, data)


# Data


def test_read_once_and_all_of_it(net):
    """More than the sample that is held in memory: the rest is measured as it comes."""
    read = []

    def once():
        for batch in patients.blobs(1, size=500) * 12:
            read.append(len(batch[0]))
            yield batch

    done = tn.repair(net, once())
    assert sum(read) == 6000
    decide = LIMIT // 4  # of the sample that is held in memory
    assert (done.measured, done.batch_size) == (6000 - decide, 500)
    assert (done.scored, done.held_out) == (decide, "others")


def test_loaders_of_every_kind(data):
    x, y = patients.joined(data)
    shuffled = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    expected = tn.statistics(_repaired(patients.never()[0], data))
    for loader in (shuffled, iter(data), ({"image": x, "label": y} for x, y in data)):
        found = tn.statistics(_repaired(patients.never()[0], loader))
        for name in expected:  # another draw of what is held out
            torch.testing.assert_close(found[name].mean, expected[name].mean, rtol=0.1, atol=0.1)
            torch.testing.assert_close(found[name].var, expected[name].var, rtol=0.1, atol=0.1)


def test_tolerance_ends_an_endless_loader(net):
    read = []

    def endless():
        generator = torch.Generator().manual_seed(0)
        for _ in itertools.count():
            y = torch.randint(0, 3, (500,), generator=generator)
            read.append(500)
            yield torch.randn(500, 4, generator=generator) + 3 + 2 * F.one_hot(y, 4), y

    done = tn.repair(net, endless(), tolerance=0.012)
    count = done.measured
    assert count == sum(read) - LIMIT // 4
    # The standard error of a mean of independent values, in σ, is 1/√n; it is looked at every eighth batch.
    assert 1 / math.sqrt(count) <= 0.012 * 1.2
    assert count < 2 / 0.012**2


def test_limit(net):
    read = []

    def endless():
        for batch in patients.blobs(1) * 10_000:
            read.append(32)
            yield batch

    tn.repair(net, endless(), limit=200)
    assert sum(read) == 224


def test_held_out_is_read_no_further_than_needed(net, data):
    read = []

    def endless():
        for batch in patients.blobs(1, size=500) * 100:
            read.append(500)
            yield batch

    assert tn.repair(net, data, held_out=endless()).scored == LIMIT
    assert sum(read) == LIMIT


def test_what_is_wrong_with_the_held_out_data(net, data):
    for wrong, said in (([], "gave no batches"), ("val", "data is a str"), ([x for x, _ in data], "nothing says")):
        before = patients.bits(net)
        with pytest.raises(InvalidInput, match=said):
            tn.repair(net, data, held_out=wrong)
        patients.assert_same_bits(net.state_dict(), before)


def test_no_labels_and_no_score(net, data):
    before, things = patients.bits(net), patients.everything_else(net)
    with pytest.raises(InvalidInput) as error:
        tn.repair(net, [x for x, _ in data])
    assert str(error.value) == snapshot(
        "nothing says whether other statistics do better: the batches hold no labels that fit the model's output; pass score=lambda output, batch: ..."
    )
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things


def test_numbers_out_of_range(net, data):
    with pytest.raises(InvalidInput, match="limit is 0; expected one sample or more"):
        tn.repair(net, data, limit=0)


@pytest.mark.parametrize("tolerance", [0.0, -0.1, math.nan])
def test_a_tolerance_that_is_none(net, data, tolerance):
    with pytest.raises(InvalidInput, match="tolerance is"):
        tn.repair(net, data, tolerance=tolerance)


# Stopped


ERRORS = [RuntimeError, KeyboardInterrupt]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("which", ["data", "held_out"])
def test_stopped_before_any_batch(error, which):
    net, batches = patients.intricate()
    loader = patients.Stopping(batches)
    how = {"held_out": loader} if which == "held_out" else {}

    def act():
        tn.repair(net, batches if how else loader, **how)

    assert patients.left_as_it_was(net, act, loader.at, error) == len(batches)


@pytest.mark.parametrize("error", ERRORS)
def test_stopped_inside_any_forward(error):
    net, batches = patients.intricate()
    assert patients.left_as_it_was(net, lambda: tn.repair(net, batches), net.stop.at, error) > 5


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError, InvalidInput), (KeyboardInterrupt, KeyboardInterrupt)])
def test_stopped_inside_any_score(error, raised):
    net, batches = patients.intricate()
    stop = patients.Stop()

    def score(output, batch):
        return -F.cross_entropy(stop(output), batch[1])

    assert patients.left_as_it_was(net, lambda: tn.repair(net, batches, score=score), stop.at, error, raised) >= 4


def test_the_network_that_is_stopped_is_one_that_would_be_changed():
    """Else nothing could be left of a repair in it."""
    net, batches = patients.intricate()
    before = patients.bits(net)
    assert tn.repair(net, batches, score=lambda y, b: -net.bn1.running_var.mean().expand(len(y))).chosen
    assert not torch.equal(net.bn1.running_mean, before["bn1.running_mean"])


# How it shows itself


def test_it_shows_itself(net, data, held_out):
    done = tn.repair(net, data, held_out=held_out)
    assert str(done) == plain(done)
    assert f"{done.chosen} ← assigned" in str(done)
    assert done.before == done.scores["as it is"]
    assert "\n" not in repr(done) and repr(done).startswith("Repair(chosen='joint', accuracy ")
    assert pickle.loads(pickle.dumps(done)).to_dict() == copy.deepcopy(done).to_dict() == done.to_dict()
    assert done.to_dict() == {"chosen": done.chosen, "scores": done.scores}
    assert "← assigned" in done._repr_html_() and done.sentence in done._repr_html_()


def test_that_nothing_was_done_is_shown(data):
    done = tn.repair(patients.sound(), data)
    assert "assigned" not in str(done)
    assert done.sentence in str(done)
    assert repr(done) == "Repair(chosen=None)"

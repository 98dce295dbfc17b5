"""The one run is right: every momentum from one watched training is what torch gives in a training of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import truenorm as tn
from truenorm import rules
from truenorm.lab.images.feed import Feed, Scale
from truenorm.lab.images.sets import Split, load
from truenorm.lab.networks.named import network_factory
from truenorm.lab.study.configuration import StudyConfig, StudyTrial
from truenorm.lab.study.training import train
from truenorm.lab.study.trial import recipe

MOMENTA = (0.001, 0.1, 0.9)
READINGS = {0.001: "static-0.001", 0.1: "static-0.1", 0.9: "static-0.9", None: "cumulative"}

# Each step writes running = (1 − m)·running + m·new in float32 there, in float64 here. A step rounds both products
# and the sum, at most three half units in the last place (2⁻²⁴) of numbers no larger than the channel's scale, and
# what was rounded before fades: after T steps at most 3·T·2⁻²⁴ of it. The longest run here has 39 steps: 7e-6.
ROUNDING = {"rtol": 7e-6, "atol": 7e-6}

CASES = {
    # A last batch of 11 images; and one of a single image, which is left out.
    "mlp": {"num": 203, "batch_size": 16, "epochs": 3, "widths": (20, 12), "seed": 3, "steps": 39},
    "cnn": {"num": 97, "batch_size": 8, "epochs": 3, "widths": (1,), "seed": 4, "steps": 36},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(steps, the oracle's state dicts by momentum, the watched network, its watch)."""
    given, folder = CASES[request.param], tmp_path_factory.mktemp("oracle")
    study = StudyConfig(
        networks=(request.param,),
        widths=given["widths"],
        batch_sizes=(given["batch_size"],),
        epochs=given["epochs"],
        lr=(0.05,),
    )
    digits = load("digits").train
    images, labels = digits.images[: given["num"]], digits.labels[: given["num"]]
    job = {
        "network": request.param,
        "images": images,
        "labels": labels,
        "classes": 10,
        "seed": given["seed"],
        "batch_size": given["batch_size"],
        "epochs": study.epochs,
        "lr": study.lr[0],
        "weight_decay": study.weight_decay,
        "momenta": list(READINGS),
    }
    torch.save(job, folder / "job.pt")
    script = Path(__file__).with_name("plain_torch.py")
    subprocess.run([sys.executable, "-I", script, folder / "job.pt", folder / "result.pt"], check=True, timeout=120)
    oracle = torch.load(folder / "result.pt")

    make = network_factory(request.param, input_shape=(1, 8, 8), num_classes=10, widths=study.widths, bfn=None)
    torch.manual_seed(given["seed"])
    network = make("bn")
    feed = Feed(Split(images, labels), Scale.of(images), given["batch_size"], drop_single=True)
    with tn.watch(network, [rules.Static(MOMENTA), rules.Cumulative(), rules.Adaptive()]) as watched:
        train(
            network, feed, recipe(StudyTrial(norm="bn", lr=study.lr[0], seed=given["seed"], setting=study.settings[0]))
        )
    return given["steps"], oracle, network, watched


def buffers(state, what):
    return {name.removesuffix(f".{what}"): value for name, value in state.items() if name.endswith(what)}


def parameters(state):
    return {name: value for name, value in state.items() if name.endswith(("weight", "bias"))}


def assert_statistics(found, state):
    means, variances = buffers(state, "running_mean"), buffers(state, "running_var")
    assert list(found) == list(means)
    for layer, moments in found.items():
        torch.testing.assert_close(moments.mean.double(), means[layer].double(), **ROUNDING)
        torch.testing.assert_close(moments.var.double(), variances[layer].double(), **ROUNDING)


def test_one_training_stands_for_all(case):
    """The oracle's trainings end in the same weights: no momentum has changed them."""
    _, oracle, _, _ = case
    first, *others = (parameters(state) for state in oracle.values())
    assert first
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())


@pytest.mark.parametrize("momentum", READINGS, ids=str)
def test_weights_are_bit_equal(case, momentum):
    _, oracle, network, _ = case
    ours, theirs = parameters(network.state_dict()), parameters(oracle[momentum])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("momentum", READINGS, ids=str)
def test_statistics_are_equal_to_rounding(case, momentum):
    _, oracle, _, watched = case
    assert_statistics(watched[READINGS[momentum]], oracle[momentum])


@pytest.mark.parametrize("momentum", READINGS, ids=str)
def test_counts_are_equal(case, momentum):
    steps, oracle, network, _ = case
    ours, theirs = (buffers(state, "num_batches_tracked") for state in (network.state_dict(), oracle[momentum]))
    assert ours == theirs
    assert {int(count) for count in theirs.values()} == {steps}


def test_the_networks_own_buffers_are_as_if_unwatched(case):
    _, oracle, network, _ = case
    assert_statistics(tn.statistics(network), oracle[0.1])


def test_these_comparisons_see_what_is_wrong(case):
    """Planted: another momentum, the biased variance, a weight off by one bit."""
    _, oracle, network, watched = case
    with pytest.raises(AssertionError, match="not close"):
        assert_statistics(watched["static-0.1"], oracle[0.9])
    biased = {layer: tn.Moments(m.mean, m.var * (1 - 1 / 4096)) for layer, m in watched["static-0.1"].items()}
    with pytest.raises(AssertionError, match="not close"):
        assert_statistics(biased, oracle[0.1])
    with pytest.raises(AssertionError, match="not close"):
        assert_statistics(watched["adaptive"], oracle[0.1])
    weight = next(iter(parameters(network.state_dict()).values()))
    nudged = weight.clone()
    nudged.view(-1)[0] = torch.nextafter(nudged.view(-1)[0], torch.tensor(torch.inf))
    assert not torch.equal(nudged, weight)

"""Claims 4, 6, 17 and 18, about what stands beside batch norm and what it does to the loss."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from truenorm.lab.claims.catalogue import dropout, landscape, placement, weight_decay
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import interaction
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import NETWORKS, NORMS, Bias, dense, initialised
from truenorm.lab.claims.run import run_claims
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.lab.networks.norms import BatchNorm
from truenorm.record import Measurement, Record

pytestmark = pytest.mark.slow  # trains for each claim

TINY = ClaimsConfig(limit=200, test_limit=80, quick=True)


@pytest.fixture(scope="module")
def context():
    images = load("digits", limit=200, test_limit=80)
    return ClaimsContext(images, Scale.of(images.train.images), quick=True)


def evidence(*numbers, **where):
    """Of (arm, metric, value), all of seed 0."""
    trials = {arm: {"claim": "c", "arm": arm, "seed": 0, "where": where} for arm, *_ in numbers}
    rows = tuple(Measurement(arm, arm, None, metric, value) for arm, metric, value in numbers)
    return Evidence(Record(command="", trials=trials, rows=rows), "c")


@pytest.mark.parametrize("module", [dropout, landscape, weight_decay, placement])
def test_a_tiny_run_gives_what_is_shown_and_judged(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES", 1000 if module is not landscape else 15_000)
    if module is landscape:
        monkeypatch.setattr(module, "LEVELS", (0.95, 0.9))
    claim = module.CLAIM
    found = Evidence(run_claims(TINY, [claim], command="", out=tmp_path), claim.name)
    seeds = set(range(5))
    for arm in claim.arms:
        assert found.places(arm)
        for place in found.places(arm):
            assert set(found.by_seed(claim.picture.metric, arm, **place)) == seeds
            assert claim.picture.panels is None or claim.picture.panels in place
    for column in claim.columns:
        assert set(found.by_seed(column.metric, "bn" if "bn" in claim.arms else "before")) == seeds
    for part in claim.parts:
        effect = part.effect(found)
        assert set(effect) == seeds
        assert all(math.isfinite(value) for value in effect.values())


# 4: dropout


def test_an_interaction_is_what_the_first_pair_gains_more_than_the_second():
    numbers = [("none-dropout", 0.75), ("none", 0.5), ("bn-dropout", 0.875), ("bn", 0.75)]
    found = evidence(*((arm, "accuracy", value) for arm, value in numbers))
    assert interaction("accuracy", ("none-dropout", "none"), ("bn-dropout", "bn"))(found) == {0: 0.125}
    assert interaction("accuracy", ("none-dropout", "none"), ("dropout-bn", "bn"))(found) == {}


def test_the_effects_are_positive_where_batch_norm_leaves_dropout_less_to_do():
    """Without norm dropout gains ten points and halves the loss; with batch norm it gains nothing."""
    better, worse = (0.9, math.log(0.5)), (0.8, math.log(1.0))
    of = {"none": worse, "none-dropout": better, "bn": better, "bn-dropout": better, "dropout-bn": better}
    rows = [
        (arm, metric, value)
        for arm, pair in of.items()
        for metric, value in zip(("accuracy", "nll"), pair, strict=True)
    ]
    effects = {part.name: part.effect(evidence(*rows))[0] for part in dropout.CLAIM.parts}
    assert effects == {
        "accuracy": pytest.approx(0.1),
        "loss": pytest.approx(math.log(2)),
        "accuracy, dropout before batch norm": pytest.approx(0.1),
    }


def test_dropout_before_batch_norm_makes_the_stored_variance_too_large():
    """Of inputs of mean 0 dropout leaves a share 1 − p, each divided by 1 − p: the variance becomes 1 / (1 − p)."""
    torch.manual_seed(0)
    values = torch.randn(200_000, 1)
    stored = {}
    for arm in ("bn-dropout", "dropout-bn"):
        layer = dropout.MAKERS[arm](1)
        (norm,) = (module for module in layer.modules() if isinstance(module, BatchNorm))
        norm.momentum = 1.0
        layer(values)
        stored[arm] = norm.running_var.item()
    assert stored["bn-dropout"] == pytest.approx(1, rel=0.01)
    assert stored["dropout-bn"] == pytest.approx(1 / (1 - dropout.SHARE), rel=0.01)


# 6: landscape


@pytest.fixture
def probe(context):
    return next(iter(context.feed("train", 64)))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_size_of_weights_behind_batch_norm_does_not_make_the_loss_smoother(context, network, probe):
    made = initialised(lambda: NETWORKS[network](context, NORMS["bn"]), 0)
    for module in made.modules():
        if isinstance(module, BatchNorm):
            module.eps = 1e-12
    before = landscape.around(made, probe)
    with torch.no_grad():
        for module in list(made.modules())[:-1]:
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.mul_(5)
    assert landscape.around(made, probe) == pytest.approx(before, rel=1e-5)


def test_of_a_small_step_the_range_is_its_length_times_the_gradients(context, probe, monkeypatch):
    network = initialised(lambda: dense(context, NORMS["none"], depth=2, width=16), 0)
    images, labels = probe
    weights = [network.get_parameter(f"linear{layer}.weight") for layer in (1, 2)]
    gradients = torch.autograd.grad(F.cross_entropy(network(images), labels), weights)
    length, slope = (torch.cat([each.flatten() for each in values]).norm().item() for values in (weights, gradients))
    found = {}
    for step in (1e-6, 1e-4):
        monkeypatch.setattr(landscape, "STEPS", (step,))
        found[step] = landscape.around(network, probe)
        assert found[step]["range"] == pytest.approx(step * length * slope, rel=0.01)
    assert 0 < found[1e-6]["change"] < found[1e-4]["change"] / 50


def test_looking_around_leaves_the_network_alone(context, probe):
    network = initialised(lambda: dense(context, NORMS["bn"], depth=2, width=16), 0).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    landscape.around(network, probe)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_does_not_get_down_gives_no_number(context, monkeypatch):
    monkeypatch.setattr(landscape, "IMAGES", 1000)
    trial = ClaimTrial(claim="landscape", arm="none", seed=0, where={"network": "cnn"}, lr=1e-7)
    rows = list(landscape.run(trial, context, lambda: None))
    assert [(row.metric, row.value) for row in rows] == [("arrived", 0.0)]


# 17: weight decay


def network_of(context, norm):
    return initialised(lambda: dense(context, weight_decay.MAKERS[norm]), 0)


def one_step(network, probe, optimizer):
    images, labels = probe
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()


def test_decay_is_torchs(context, probe):
    ours, torchs = network_of(context, "bn"), network_of(context, "bn")
    hidden = weight_decay.hidden_weights(torchs)
    assert len(hidden) == 4
    others = [value for value in torchs.parameters() if all(value is not each for each in hidden)]
    expected = torch.optim.SGD([{"params": hidden, "weight_decay": 0.1}, {"params": others}], 0.05, momentum=0.9)
    optimizer = torch.optim.SGD(ours.parameters(), 0.05, momentum=0.9)
    with weight_decay.decayed(weight_decay.hidden_weights(ours), 0.1, fixed=False):
        for _ in range(3):
            one_step(ours, probe, optimizer)
    for _ in range(3):
        one_step(torchs, probe, expected)
    for a, b in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    one_step(ours, probe, torch.optim.SGD(ours.parameters(), 0.05))  # outside the block nothing decays
    one_step(torchs, probe, torch.optim.SGD(torchs.parameters(), 0.05))
    torch.testing.assert_close(ours.get_parameter("linear1.weight"), torchs.get_parameter("linear1.weight"))


@pytest.mark.parametrize(("fixed", "turned"), [(True, 1.0), (False, 1 / 9)])
def test_at_a_fixed_effective_rate_long_weights_turn_as_fast(context, probe, fixed, turned):
    """Behind batch norm three times the length is a ninth of the angle, unless the rate follows the length."""
    steps = {}
    for factor in (1, 3):
        network = network_of(context, "bn")
        weights = weight_decay.hidden_weights(network)
        with weight_decay.decayed(weights, 0.0, fixed=fixed), torch.no_grad():
            for weight in weights:
                weight.mul_(factor)
            before = weights[1].clone()
            with torch.enable_grad():
                one_step(network, probe, torch.optim.SGD(network.parameters(), 0.05))
            steps[factor] = ((weights[1] - before).norm() / before.norm()).item()
    assert steps[3] / steps[1] == pytest.approx(turned, rel=1e-3)


def test_the_size_of_the_weights_and_the_bias_matter_without_batch_norm_only(context, probe):
    images, labels = probe
    none, bn = network_of(context, "none"), network_of(context, "bn")
    assert weight_decay.change_when_halved(none, images) == pytest.approx(1 - 0.5**4)
    assert weight_decay.change_when_halved(bn, images) < 1e-3
    assert weight_decay.bias_gradient(none, images, labels) > 0.01
    assert weight_decay.bias_gradient(bn, images, labels) < 1e-12


# 18: placement


def built(context, network, place):
    return placement.PLACES[place](lambda layer: NETWORKS[network](context, layer))


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_where(context, network):
    def order(place):
        kinds = {BatchNorm: "bn", Bias: "bias", nn.ReLU: "relu", nn.Linear: "layer", nn.Conv2d: "layer"}
        return " ".join(kinds[type(module)] for module in built(context, network, place) if type(module) in kinds)

    assert order("before") == "layer bn relu " * 4 + "layer"
    assert order("after") == "layer bias relu bn " * 4 + "layer"
    assert order("every-second") == "layer bn relu layer bias relu " * 2 + "layer"
    assert order("logits") == "layer bn relu " * 4 + "layer bn"
    assert order("none") == "layer bias relu " * 4 + "layer"


@pytest.mark.parametrize("network", NETWORKS)
def test_all_places_begin_with_the_same_weights_and_train(context, network, probe):
    images, labels = probe
    weights = {}
    for place in placement.PLACES:
        made = initialised(lambda place=place: built(context, network, place), 3)
        F.cross_entropy(made(images), labels).backward()
        assert all(value.grad is not None for value in made.parameters())
        weights[place] = [m.weight for m in made.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    first, *others = weights.values()
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_effects_are_positive_as_the_claim_has_it():
    rows = [("before", 0.75), ("after", 0.5), ("every-second", 0.625), ("logits", 1.0)]
    found = evidence(*((arm, "accuracy", value) for arm, value in rows), network="cnn")
    effects = {part.name: effect[0] for part in placement.CLAIM.parts if (effect := part.effect(found))}
    assert effects == {"before the activation (cnn)": 0.25, "every layer (cnn)": 0.125, "the logits, too (cnn)": 0.25}


def test_few_images_are_few_whatever_the_data(context):
    cell, *_ = dropout.cells(replace(context, quick=False))
    assert cell.steps == (dropout.IMAGES // dropout.TRAINED_ON) * math.ceil(len(context.images.train) / dropout.BATCH)

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from truenorm.lab.claims.catalogue import affine, deeper, gradients
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import NORMS, initialised
from truenorm.lab.claims.residual import SkipInit, residual
from truenorm.lab.claims.training import scored, scored_in_batches
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.record import Record

pytestmark = pytest.mark.slow  # trains for each claim


@pytest.fixture(scope="module")
def context():
    images = load("digits", limit=130, test_limit=60)
    return ClaimsContext(images, Scale.of(images.train.images), quick=True)


@pytest.fixture(scope="module")
def whole():
    images = load("digits")
    return ClaimsContext(images, Scale.of(images.train.images))


def sizes_of(context, network, arm, **shape):
    made, layers = gradients.made(network, context, arm, seed=0, **shape)
    images, labels = next(iter(context.feed("train", 512)))
    return gradients.gradients(made.double(), layers, images.double(), labels)


def test_the_gradient_of_relus_behind_batch_norm_grows_as_the_theory_says(whole):
    sizes = sizes_of(whole, "ReLU", "bn", depth=24, width=512)
    assert len(sizes) == 24
    # Away from the ends: the input is not yet, and the classes are no longer, what the theory takes them for.
    assert (sizes[4] / sizes[19]) ** (1 / 15) == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.015)


def test_without_norm_he_s_weights_keep_the_gradient_and_with_skips_they_double_its_square(whole):
    sizes = sizes_of(whole, "ReLU", "none", depth=10, width=512)
    assert (sizes[0] / sizes[-1]) ** (1 / 9) == pytest.approx(1, abs=0.03)
    sizes = sizes_of(whole, gradients.SKIPS, "none", depth=10, width=512)
    assert len(sizes) == 10
    assert (sizes[0] / sizes[-1]) ** (1 / 9) == pytest.approx(math.sqrt(2), rel=0.03)


def test_a_gradient_s_size_is_what_a_nudge_of_the_layer_says(context):
    network, layers = gradients.made("tanh", context, "bn", depth=3, width=16, seed=0)
    network.double()
    images, labels = next(iter(context.feed("train", 32)))
    images = images.double()
    found = gradients.gradients(network, layers, images, labels)
    step, squares = 1e-5, 0.0
    generator = torch.Generator().manual_seed(0)
    draws = 400
    for _ in range(draws):  # the mean square of slopes along random directions is the gradient's square
        nudge = torch.randn(32, 16, generator=generator, dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            hook = layers[1].register_forward_hook(lambda module, given, output, by=sign * step * nudge: output + by)
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(network(images), labels).item())
            hook.remove()
        squares += ((losses[0] - losses[1]) / (2 * step)) ** 2 / draws
    assert math.sqrt(squares) == pytest.approx(found[1], rel=0.15)


def test_networks_with_skips_have_as_many_layers_and_weights_as_plain_ones(context):
    def parts(network):
        return Counter(type(m).__name__ for m in network.modules() if isinstance(m, nn.Linear | nn.ReLU | NORMS["bn"]))

    def made(network):
        trial = ClaimTrial(claim="deeper", arm="bn", seed=0, where={"network": network, "depth": 7})
        return deeper.made(context, trial)

    assert parts(made(deeper.PLAIN)) == parts(made(deeper.SKIPS)) == {"Linear": 8, "BatchNorm": 7, "ReLU": 7}


def test_skipinit_begins_as_its_skips_alone_and_learns_from_there(context):
    deep, shallow = (
        initialised(lambda: residual(context, NORMS["none"], depth=9, width=16, end=SkipInit), seed=0) for _ in "ab"
    )
    for layer in range(2, 10):
        setattr(shallow, f"layer{layer}", nn.Identity())
    images, labels = next(iter(context.feed("train", 16)))
    assert torch.equal(deep(images), shallow(images))
    nn.functional.cross_entropy(deep(images), labels).backward()
    scales = [module.scale for module in deep.modules() if isinstance(module, SkipInit)]
    assert len(scales) == 8
    assert all(scale.grad.abs() > 0 for scale in scales)
    with torch.no_grad():
        scales[0].fill_(0.5)
    assert not torch.equal(deep(images), shallow(images))


def test_arms_begin_with_the_same_weights(context):
    for network, arms in deeper.COMPARED.items():
        trials = [ClaimTrial(claim="deeper", arm=arm, seed=3, where={"network": network, "depth": 5}) for arm in arms]
        weights = [
            [
                m.weight
                for m in initialised(lambda t=t: deeper.made(context, t), t.seed).modules()
                if type(m) is nn.Linear
            ]
            for t in trials
        ]
        assert all(torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True))


def test_scores_in_batches_are_those_of_training_mode_and_leave_the_network_alone(context):
    network = initialised(lambda: residual(context, NORMS["bn"], depth=3, width=16), seed=0).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = scored_in_batches(network, context.feed("train", 43))  # 130 images: 3 batches of 43, and one left out
    assert found.num == 129
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found.nll != pytest.approx(scored(network, context, "train").nll, rel=1e-3)  # new averages fit nothing
    logits = torch.cat([network.train()(images) for images, _ in context.feed("train", 43)])
    labels = context.images.train.labels[:129]
    assert found.nll == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_normal_inputs_lie_within_one_standard_deviation_as_often_as_they_should():
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert affine.share_within(values, affine.LINEAR) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.004)


def test_a_sigmoid_is_a_straight_line_in_what_is_called_its_linear_region():
    z = torch.linspace(-affine.LINEAR, affine.LINEAR, 101)
    assert (z.sigmoid() - (0.5 + z / 4)).abs().max() < 0.02


def test_sigmoid_inputs_have_the_spread_that_gamma_sets_and_without_gamma_spread_1(context):
    for arm, spread in (("bn", 3.0), ("bn-no-affine", 1.0)):
        network = initialised(
            lambda arm=arm: affine.dense(context, affine.AFFINE[arm], depth=2, activation=nn.Sigmoid), seed=0, gain=1.0
        )
        gammas = [value for name, value in network.named_parameters() if name.startswith("norm") and "weight" in name]
        assert len(gammas) == (2 if arm == "bn" else 0)
        for gamma in gammas:
            nn.init.constant_(gamma, 3.0)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        inputs = affine.sigmoid_inputs(network, replace(context.feed("train", 130), drop_single=False))
        assert [tuple(each.shape) for each in inputs] == [(130, 128)] * 2
        torch.testing.assert_close(inputs[1].std(0, correction=0), torch.full((128,), spread), rtol=2e-3, atol=0)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def rows(claim, context, cell, lr, **options):
    trial = ClaimTrial(claim=claim.name, arm=cell.arm, seed=0, where=cell.where, lr=lr, **options)
    steps = []
    return trial, tuple(claim.run(trial, context, lambda: steps.append(1))), len(steps)


@pytest.mark.parametrize("module", [gradients, deeper, affine], ids=lambda m: m.CLAIM.name)
def test_every_cell_gives_what_table_chart_and_verdict_read(module, context, monkeypatch):
    if module is not affine:
        monkeypatch.setattr(module, "DEPTHS", (2, 3, 3, 4) if module is gradients else (2, 2, 3, 4))
    claim = module.CLAIM
    trials, measured = {}, []
    for cell in claim.cells(context):
        trial, found, steps = rows(claim, context, cell, cell.lrs[-3] if cell.lrs else None)
        assert steps == cell.steps
        wanted = [*(column.metric for column in claim.columns), claim.picture.metric]
        assert set(wanted) <= {row.metric for row in found}
        assert all(math.isfinite(row.value) for row in found)
        for key in (claim.picture.x, claim.picture.panels):
            assert key is None or key in cell.where
        trials[trial.id] = trial.to_dict()
        if module is deeper and cell.where["depth"] == 4:
            trials[trial.id]["where"]["depth"] = 40  # where the parts of the catalogue look
        measured += found
    assert {trial["arm"] for trial in trials.values()} == set(claim.arms)
    evidence = Evidence(Record(command="", trials=trials, rows=tuple(measured)), claim.name)
    for part in claim.parts:
        assert set(part.effect(evidence)) == {0}, part.name
        assert part.margin > 0


def test_effects_are_positive_as_the_claims_have_it():
    def evidence(name, *numbers):
        trials, found = {}, []
        for arm, where, metric, value in numbers:
            trial = ClaimTrial(claim=name, arm=arm, seed=0, where=where)
            trials[trial.id] = trial.to_dict()
            found.append(trial.row(metric, value))
        return Evidence(Record(command="", trials=trials, rows=tuple(found)), name)

    def effects(claim, found):
        return {part.name: effect[0] for part in claim.parts if (effect := part.effect(found))}

    where = {"activation": "sigmoid", "depth": 40}
    found = evidence("gradients", ("none", where, "growth", -1.5), ("bn", where, "growth", 0.25))
    assert effects(gradients.CLAIM, found) == {"sigmoid": 1.25}

    where = {"network": "with skips", "depth": 40}
    found = evidence(
        "deeper",
        ("none", where, "training_accuracy", 0.25),
        ("bn", where, "training_accuracy", 0.75),
        ("skipinit", where, "training_accuracy", 1.0),
    )
    assert effects(deeper.CLAIM, found) == {"networks with skips": 0.5, "skips against SkipInit": -0.25}

    found = evidence(
        "affine",
        *(("bn", {}, metric, value) for metric, value in (("linear_share", 0.5), ("nll", 0.2))),
        *(("bn-no-affine", {}, metric, value) for metric, value in (("linear_share", 0.75), ("nll", 0.4))),
    )
    assert effects(affine.CLAIM, found) == {
        "the share in the linear region": 0.25,
        "the loss": pytest.approx(math.log(2)),
    }


@pytest.mark.parametrize("claim", [deeper.CLAIM, affine.CLAIM], ids=lambda claim: claim.name)
def test_a_trial_that_tunes_gives_one_number_the_better_the_higher(claim, context):
    by_rate = {}
    cell = next(cell for cell in claim.cells(context) if cell.arm == "bn")
    for lr in (1e-6, 0.1):
        _, found, _ = rows(claim, context, cell, lr, tuning=True)
        by_rate[lr] = [row.value for row in found]
        assert len(found) == 1
    assert by_rate[0.1] > by_rate[1e-6]


def test_a_deep_network_that_diverges_counts_as_guessing(context):
    cell = next(cell for cell in deeper.CLAIM.cells(context) if cell.arm == "none" and cell.where["depth"] == 10)
    for tuning in (False, True):
        _, found, _ = rows(deeper.CLAIM, context, cell, 1e30, tuning=tuning)
        assert {row.value for row in found} == {0.1}

"""Claims 12, 14, 15, 16 and 21: what they are made of, and that tiny runs give all that is shown of them."""

import math
from functools import partial

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from truenorm.lab.claims.catalogue import other_data, per_sample, recurrent, robustness, sorted_batches
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.corruption import CORRUPTIONS, blur, contrast, noise
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.recurrent import RowLSTM, StepBatchNorm, StepLayerNorm
from truenorm.lab.claims.run import run_claims
from truenorm.lab.claims.training import scored_in_batches
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import Split, load
from truenorm.lab.networks.norms import BatchNorm
from truenorm.record import Measurement, Record
from truenorm.stats.moments import Moments

pytestmark = pytest.mark.slow  # trains for each claim

TINY = ClaimsConfig(limit=160, test_limit=80, quick=True)
PLACED = {"images": "noisy"}


@pytest.fixture(scope="module")
def context():
    images = load("digits", limit=160, test_limit=80)
    return ClaimsContext(images, Scale.of(images.train.images), quick=True)


def record_of(claim, rows):
    """A record of (arm, place, metric, value), all of seed 0."""
    trials = {
        str(n): {"claim": claim, "arm": arm, "seed": 0, "where": where} for n, (arm, where, *_) in enumerate(rows)
    }
    found = (Measurement(str(n), arm, None, metric, value) for n, (arm, _, metric, value) in enumerate(rows))
    return Record(command="", trials=trials, rows=tuple(found))


@pytest.mark.parametrize("module", [recurrent, other_data, per_sample, robustness, sorted_batches])
def test_a_tiny_run_gives_what_is_shown_and_judged(module, tmp_path, monkeypatch):
    for trains in (module, other_data):  # claim 21 trains as claim 14 does
        monkeypatch.setattr(trains, "IMAGES", 100, raising=False)
    claim = module.CLAIM
    found = Evidence(run_claims(TINY, [claim], command="", out=tmp_path), claim.name)
    seeds = set(range(5))
    panels, along = claim.picture.panels, claim.picture.x
    for arm in claim.arms:
        assert found.places(arm)
        for place in found.places(arm):
            for metric in {claim.picture.metric, *(column.metric for column in claim.columns)}:
                if metric != "shift" or arm == "stored":  # other statistics have no distance of their own
                    assert set(found.by_seed(metric, arm, **place)) == seeds, (arm, place, metric)
            assert (panels is None or panels in place) and (along is None or along in place)
    for part in claim.parts:
        effect = part.effect(found)
        assert set(effect) == seeds
        assert all(math.isfinite(value) for value in effect.values())


# 12: the LSTM


def test_without_norm_it_is_torchs_lstm():
    images = torch.randn(6, 3, 5, 4)
    ours = RowLSTM((3, 5, 4), 10, hidden=7)
    torchs = nn.LSTM(12, 7)
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(ours.from_input.weight)
        torchs.weight_hh_l0.copy_(ours.from_hidden.weight)
        torchs.bias_ih_l0.copy_(ours.bias)
        torchs.bias_hh_l0.zero_()
    rows = torch.stack([images[:, :, row].reshape(6, 12) for row in range(5)])
    _, (hidden, _) = torchs(rows)
    torch.testing.assert_close(ours(images), ours.classes(hidden[0]))
    assert ours.bias.view(4, 7).mean(1).tolist() == [0, 1, 0, 0]  # forget gate


def test_with_batch_norm_it_is_that_of_cooijmans():
    images = torch.randn(6, 1, 3, 4)
    network = RowLSTM((1, 3, 4), 10, norm_layer=partial(StepBatchNorm, steps=3, gain=0.1), hidden=5)

    def bn(values):
        return 0.1 * (values - values.mean(0)) / (values.var(0, correction=0) + 1e-5).sqrt()

    h = c = torch.zeros(6, 5)
    for row in range(3):
        gates = bn(images[:, 0, row] @ network.from_input.weight.T) + bn(h @ network.from_hidden.weight.T)
        i, f, g, o = (gates + network.bias).split(5, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(bn(c))
    torch.testing.assert_close(network(images), network.classes(h))


def test_statistics_for_each_step_are_kept_for_each():
    at_step = [torch.randn(16, 2) + 10 * step for step in range(3)]
    each, shared = StepBatchNorm(2, steps=3), StepBatchNorm(2)
    for step, values in enumerate(at_step):
        torch.testing.assert_close(each(values, step), shared(values, step))  # in training there is no difference
    assert each.running_mean.shape == (3, 2) and shared.running_mean.shape == (1, 2)
    mean = torch.stack([values.mean(0) for values in at_step])
    torch.testing.assert_close(each.running_mean, 0.1 * mean)
    torch.testing.assert_close(shared.running_mean[0], 0.081 * mean[0] + 0.09 * mean[1] + 0.1 * mean[2])
    torch.testing.assert_close(each.running_var, 0.9 + 0.1 * torch.stack([values.var(0) for values in at_step]))


def test_in_evaluation_each_step_has_its_own_statistics():
    norm = StepBatchNorm(2, steps=2).eval()
    norm.running_mean[1] = 5.0
    norm.running_var[1] = 4.0
    values = torch.randn(3, 2)
    torch.testing.assert_close(norm(values, 0), values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm(values, 1), (values - 5) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm(values, 7), norm(values, 1))  # beyond the last step


def test_norms_before_a_bias_have_none():
    for norm_layer in (StepBatchNorm, StepLayerNorm):
        network = RowLSTM((1, 8, 8), 10, norm_layer=norm_layer, hidden=8)
        assert network.input_norm.bias is None and network.hidden_norm.bias is None
        assert network.cell_norm.bias is not None


def test_all_ways_of_using_it_start_as_their_arm_says(context):
    for arm, sets, gain in (
        ("bn-shared-1", 1, 1.0),
        ("bn-shared-0.1", 1, 0.1),
        ("bn-per-step-1", 8, 1.0),
        ("bn-per-step-0.1", 8, 0.1),
    ):
        network = recurrent._network(context, arm)
        for norm in (network.input_norm, network.hidden_norm, network.cell_norm):
            assert len(norm.running_mean) == sets and norm.weight.unique().item() == pytest.approx(gain)


def test_batches_are_scored_in_the_order_that_is_asked_for(context):
    network = recurrent._network(context, "bn-shared-1").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    feed = context.feed("test", recurrent.BATCH)
    backwards = scored_in_batches(network, feed, torch.arange(79, -1, -1))
    assert backwards.num == 80 and not network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert backwards != scored_in_batches(network, feed) == scored_in_batches(network, feed, torch.arange(80))
    assert backwards != recurrent.scored(network, context, "test")


def test_the_effect_is_the_logarithm_of_the_losses_ratio():
    rows = [("none", {}, "nll", 0.2), ("bn-shared-1", {}, "nll", 0.3)]
    evidence = Evidence(record_of("recurrent", rows), "recurrent")
    effects = {part.name: effect for part in recurrent.CLAIM.parts if (effect := part.effect(evidence))}
    assert effects == {"shared with γ 1": {0: pytest.approx(math.log(1.5))}}


# 14: corruptions and statistics


def test_contrast_is_halved_about_each_images_mean():
    images = torch.tensor([[0, 200], [100, 104]], dtype=torch.uint8).view(2, 1, 1, 2)
    assert contrast(images, torch.Generator()).flatten().tolist() == [50, 150, 101, 103]


def test_noise_is_as_large_as_said_and_comes_from_the_generator():
    gray = torch.full((1, 1, 200, 200), 128, dtype=torch.uint8)
    first, again, other = (noise(gray, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    within = ((first.float() - 128).abs() < 0.3 * 255).float().mean().item()
    assert within == pytest.approx(0.683, abs=0.01)
    assert first.min() == 0 and first.max() == 255  # cut off, not wrapped around


def test_blur_is_scipys():
    images = torch.randint(0, 256, (2, 3, 10, 8), dtype=torch.uint8)
    theirs = gaussian_filter(images.double().numpy(), (0, 0, 1.0, 1.0), mode="mirror", truncate=3)
    ours = blur(images, torch.Generator()).double()
    assert (ours - torch.from_numpy(theirs)).abs().max() <= 0.51  # rounded to pixels


def test_corruptions_leave_the_images_they_were_given():
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    before = images.clone()
    for corrupt in CORRUPTIONS.values():
        found = corrupt(images, torch.Generator().manual_seed(0))
        assert found.shape == images.shape and found.dtype == torch.uint8 and not torch.equal(found, images)
    assert torch.equal(images, before)


def test_mixed_is_the_mean_of_both_weighted_by_images():
    source = Moments(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    target = Moments(torch.tensor([3.0, 0.0]), torch.tensor([2.0, 1.0]), count=320)
    found = other_data.mixed(source, target, 8)
    assert found.mean.tolist() == pytest.approx([(16 * 1 + 8 * 3) / 24, (16 * 2 + 8 * 0) / 24])
    assert found.var.tolist() == pytest.approx([(16 * 1 + 8 * 2) / 24, (16 * 4 + 8 * 1) / 24])


def test_statistics_are_mixed_layer_by_layer():
    network = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.ReLU(), nn.Linear(4, 2), BatchNorm(2)).eval()
    with torch.no_grad():
        network[1].running_mean.copy_(torch.randn(4))
        network[4].running_var.copy_(torch.rand(2) + 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = 3 + 2 * torch.randn(48, 3)
    found = other_data.mixed_statistics(network, x)
    with torch.no_grad():
        for layer in (1, 4):
            x_in = network[:layer](x)
            norm = network[layer]
            norm.running_mean.copy_(norm.running_mean / 4 + x_in.mean(0) * 3 / 4)
            norm.running_var.copy_(norm.running_var / 4 + x_in.var(0, correction=0) * 3 / 4)
            torch.testing.assert_close(found[str(layer)].mean.float(), norm.running_mean)
            torch.testing.assert_close(found[str(layer)].var.float(), norm.running_var)
        network.load_state_dict(before)
    other_data.mixed_statistics(network, x)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_one_class_at_a_time_is_adapting_to_each(context):
    network = other_data.convolutional(context, BatchNorm)
    test, pool = context.images.test, context.images.validation
    threes = Split(test.images[test.labels == 3], test.labels[test.labels == 3])
    seen = Split(pool.images[pool.labels == 3], pool.labels[pool.labels == 3])
    assert other_data.one_class(network, context, pool, threes, 8) == other_data.adapted(
        network, context, seen, threes, 8
    )
    none_seen = Split(pool.images[pool.labels != 3], pool.labels[pool.labels != 3])
    stored = other_data.scores(other_data.predict(network, other_data._feed(context, threes)), threes.labels)
    assert other_data.one_class(network, context, none_seen, threes, 8) == stored


def test_what_was_asked_before_changes_no_number(context, monkeypatch):
    monkeypatch.setattr(other_data, "IMAGES", 100)

    def numbers(*arms):
        monkeypatch.setattr(other_data, "_NETWORKS", other_data.Networks())
        steps = 0

        def on_step():
            nonlocal steps
            steps += 1

        for arm in arms:
            trial = ClaimTrial(claim="other-data", arm=arm, seed=0, where=PLACED, lr=0.1)
            rows = list(other_data.run(trial, context, on_step))
        return rows, steps

    alone, steps = numbers("adapted-8")
    after_others, same = numbers("one-class", "stored", "adapted-8")
    assert alone == after_others
    assert steps == same == context.steps(100, other_data.BATCH)  # trained once
    assert numbers("stored", "ln", "gn")[1] == 3 * steps


def test_arms_of_a_seed_see_the_same_test_images(context):
    def test_images(most):
        draw = torch.Generator().manual_seed(3)
        return other_data.shown(context.images.test, "noisy", draw, most=most)

    first, again, fewer = test_images(None), test_images(None), test_images(20)
    assert torch.equal(first.images, again.images) and len(first) == 80
    assert len(fewer) == 20 and torch.equal(fewer.labels, first.labels[:20])


def test_the_effect_is_adapted_less_stored_at_the_place():
    rows = [
        ("stored", PLACED, "accuracy", 0.5),
        ("adapted-128", PLACED, "accuracy", 0.75),
        ("adapted-128", {"images": "blurred"}, "accuracy", 0.9),
        ("adapted-8", PLACED, "accuracy", 0.6),
    ]
    evidence = Evidence(record_of("other-data", rows), "other-data")
    effects = {part.name: effect for part in other_data.CLAIM.parts if (effect := part.effect(evidence))}
    assert effects == {"noisy images": {0: 0.25}}


# 16: samples


def test_layer_norm_normalises_each_sample_and_batch_norm_does_not():
    features = torch.randn(64, 32) + torch.randn(64, 1)  # samples with means of their own
    parts = features[:4], torch.randn(63, 32), torch.randn(63, 32)
    assert per_sample.centred(nn.LayerNorm(32), features) == pytest.approx(1, abs=1e-6)
    assert per_sample.alone(nn.LayerNorm(32), *parts) == 1
    assert abs(per_sample.centred(BatchNorm(32), features)) < 0.1
    assert 0.5 < per_sample.alone(BatchNorm(32), *parts) < 0.95


def test_a_norm_that_rescales_takes_nothing_away():
    assert per_sample.centred(lambda values: 3 * values + 5, torch.randn(16, 8)) == pytest.approx(0, abs=1e-5)


def test_with_stored_statistics_a_sample_is_alone():
    parts = torch.randn(4, 8), torch.randn(15, 8), torch.randn(15, 8)
    assert per_sample.alone(BatchNorm(8).eval(), *parts) == 1


def test_independence_is_one_less_the_relative_change():
    def half_the_first_of_the_others(values):
        return values + torch.cat([values[1:2] / 2, torch.zeros(len(values) - 1, 2)])

    watched, others, exchanged = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])
    found = per_sample.alone(half_the_first_of_the_others, watched, others, exchanged)
    assert found == pytest.approx(1 - 1 / 5)


def test_the_sizes_that_there_are_images_for(context):
    assert sorted({cell.where["batch_size"] for cell in per_sample.cells(context)}) == [16, 64]


def test_means_are_those_of_one_batch(context, monkeypatch):
    monkeypatch.setattr(per_sample, "centred", lambda norm, features: len(features))
    trial = ClaimTrial(claim="per-sample", arm="bn", seed=0, where={"batch_size": 64})
    assert next(per_sample.run(trial, context, lambda: None)).value == 64


# 15: sorted batches


@pytest.mark.parametrize("size", [16, 30])
def test_sorted_batches_hold_all_images_once_and_few_classes(context, size):
    plain = context.feed("train", size)
    feed = sorted_batches.SortedFeed(plain.split, plain.scale, size)
    order = torch.randperm(len(plain.split), generator=torch.Generator().manual_seed(1))
    batches = list(feed.in_order(order))
    assert sorted(map(len, (labels for _, labels in batches))) == sorted(len(labels) for _, labels in plain)
    torch.testing.assert_close(
        torch.cat([images for images, _ in batches]).sum(0), context.scale(plain.split.images).sum(0), atol=1e-3, rtol=0
    )
    classes = [len(labels.unique()) for _, labels in batches]
    assert sum(classes) <= len(batches) + 9  # a class goes on in the next batch, or it is another class's
    assert max(len(labels.unique()) for _, labels in plain.in_order(order)) > 2 * max(classes)


def test_sorted_batches_are_those_of_the_order(context):
    plain = context.feed("train", 16)
    feed = sorted_batches.SortedFeed(plain.split, plain.scale, 16)

    def labels(seed):
        order = torch.randperm(len(plain.split), generator=torch.Generator().manual_seed(seed))
        return [labels.tolist() for _, labels in feed.in_order(order)]

    assert labels(0) == labels(0) != labels(1)
    assert labels(0) != sorted(labels(0))  # the batches are not in the order of classes


def test_what_sorting_does_is_told_apart_from_what_is_there_without_it():
    def at(batches):
        return {"network": "cnn", "batches": batches}

    rows = [
        ("stored", at("shuffled"), "shift", 0.25), ("stored", at("sorted by class"), "shift", 1.0),
        ("stored", at("shuffled"), "accuracy", 0.75), ("exact", at("shuffled"), "accuracy", 0.875),
        ("stored", at("sorted by class"), "accuracy", 0.25), ("exact", at("sorted by class"), "accuracy", 0.75),
    ]  # fmt: skip
    found = Evidence(record_of("sorted-batches", rows), "sorted-batches")
    effects = {part.name: effect for part in sorted_batches.CLAIM.parts if (effect := part.effect(found))}
    assert effects == {"the shift (cnn)": {0: 0.75}, "the accuracy (cnn)": {0: 0.375}}


# 21: robustness


def test_each_kind_of_images_and_statistics_is_judged_against_no_norm():
    rows = [
        *((arm, {"images": "unchanged"}, "accuracy", value) for arm, value in (("none", 0.75), ("bn", 0.875))),
        *((arm, {"images": "noisy"}, "accuracy", value) for arm, value in (("none", 0.5), ("bn", 0.25))),
        ("bn-adapted", {"images": "noisy"}, "accuracy", 0.625),
    ]
    found = Evidence(record_of("robustness", rows), "robustness")
    effects = {part.name: effect for part in robustness.CLAIM.parts if (effect := part.effect(found))}
    assert effects == {"unchanged images": {0: 0.125}, "noisy images": {0: -0.25}, "noisy images, adapted": {0: 0.125}}


def test_a_network_is_trained_once_for_all_kinds_of_images(context, monkeypatch):
    monkeypatch.setattr(other_data, "IMAGES", 100)
    monkeypatch.setattr(robustness, "_NETWORKS", other_data.Networks())
    steps, scored = [], {}
    for cell in robustness.cells(context):
        if cell.arm in ("bn", "bn-adapted"):
            trial = ClaimTrial(claim="robustness", arm=cell.arm, seed=0, where=cell.where, lr=2.0**-4)
            rows = list(robustness.run(trial, context, lambda: steps.append(1)))
            scored[cell.arm, cell.where["images"]] = {row.metric: row.value for row in rows}
    assert len(steps) == context.steps(100, robustness.BATCH)
    assert len(scored) == 2 * len(robustness.PLACES)
    assert scored["bn", "low contrast"] != scored["bn-adapted", "low contrast"]

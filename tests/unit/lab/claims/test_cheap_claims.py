"""Claims 10, 13 and 20, which need little training: what they are made of, and that runs give all that is shown."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from truenorm.lab.claims.catalogue import bounded, consistent, population
from truenorm.lab.claims.catalogue.per_sample import alone
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.run import run_claims
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.lab.networks.norms import BatchNorm
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics
from truenorm.record import Measurement, Record
from truenorm.stats.shift import estimation_shift

pytestmark = pytest.mark.slow  # trains for each claim

TINY = ClaimsConfig(limit=200, test_limit=80, quick=True)


@pytest.fixture(scope="module")
def context():
    images = load("digits", limit=200, test_limit=80)
    return ClaimsContext(images, Scale.of(images.train.images), quick=True)


@pytest.mark.parametrize("module", [bounded, consistent, population])
def test_a_tiny_run_gives_what_is_shown_and_judged(module, tmp_path):
    claim = module.CLAIM
    few = 1 if module is population else 0  # of 200 images no 256 can be drawn
    found = Evidence(run_claims(TINY, [claim], command="", out=tmp_path), claim.name)
    seeds = set(range(5))
    panels, along = claim.picture.panels, claim.picture.x
    for arm in claim.arms:
        if few and arm in ("images-256", "images-1024"):
            assert not found.places(arm)
            continue
        assert found.places(arm)
        for place in found.places(arm):
            for metric in {claim.picture.metric, *(column.metric for column in claim.columns)}:
                assert set(found.by_seed(metric, arm, **place)) == seeds, (arm, place, metric)
            assert (panels is None or panels in place) and (along is None or along in place)
    for part in claim.parts:
        effect = part.effect(found)
        assert set(effect) == (set() if few and part.name.startswith("256") else seeds)
        assert all(math.isfinite(value) for value in effect.values())


# 10: bounded


def normed(features):
    """Two batch norms, the second behind the first."""
    return nn.Sequential(BatchNorm(features), nn.Linear(features, features, bias=False), BatchNorm(features)).double()


@pytest.mark.parametrize("num", [3, 16, 64])
def test_in_training_the_bound_is_kept_whatever_comes(num):
    wild = torch.randn(num, 5, dtype=torch.float64) ** 9  # the largest is far from all others
    assert bounded.furthest(normed(5), [wild]).max() <= math.sqrt(num - 1)


def test_the_bound_is_reached_by_one_among_equals():
    batch = torch.zeros(10, 1, dtype=torch.float64)
    batch[4] = 1e6
    found = bounded.furthest(BatchNorm(1).double(), [batch])
    torch.testing.assert_close(found, torch.tensor([1 / 3] * 4 + [3.0] + [1 / 3] * 5, dtype=torch.float64))


def test_at_inference_there_is_no_bound():
    network = normed(5).eval()
    usual = torch.randn(16, 5, dtype=torch.float64).clamp(-3, 3)
    near, far = (bounded.furthest(network, [times * usual]) for times in (1, 1000))
    assert near.max() < math.sqrt(15) < far.max()
    torch.testing.assert_close(far, 1000 * near)


def test_of_each_image_the_furthest_of_all_layers_and_positions():
    network = nn.Sequential(BatchNorm(2), BatchNorm(2)).eval()
    network[0].running_var.fill_(4.0)
    network[1].running_mean.fill_(3.0)
    images = torch.zeros(2, 2, 1, 3)
    images[1, 0, 0, 2] = -8.0
    found = bounded.furthest(network, [images[:1], images[1:]])
    torch.testing.assert_close(found, torch.tensor([3.0, 7.0], dtype=torch.float64), atol=1e-3, rtol=0)


def test_scale_and_offset_are_left_out():
    norm = BatchNorm(3).eval()
    nn.init.constant_(norm.weight, 7.0)
    nn.init.constant_(norm.bias, -2.0)
    assert bounded.furthest(norm, [torch.full((1, 3), 2.0)]).item() == pytest.approx(2, abs=1e-4)


def test_one_image_is_brighter_as_at_inference(context):
    pixels = context.images.train.images[:4]
    found = bounded.with_one_brighter(context.scale(pixels), context)
    torch.testing.assert_close(found[0], context.scale(16 * pixels.float())[0])
    assert torch.equal(found[1:], context.scale(pixels)[1:])


def test_the_limit_over_the_largest_value():
    rows = [("inference", "largest", 2 * bounded.LIMIT), ("training", "largest", bounded.LIMIT / 2)]
    found = Evidence(record_of("bounded", rows), "bounded")
    assert bounded.within("inference")(found) == {0: pytest.approx(-math.log(2))}
    assert bounded.within("training")(found) == {0: pytest.approx(math.log(2))}


# 13: consistent


def test_in_evaluation_mode_the_other_images_do_not_matter_at_all(context):
    network = initialised(lambda: dense(context, NORMS["bn"], depth=2, width=16), 0).double()
    images = context.scale(context.images.train.images[:66]).double()
    parts = images[:4], images[4:35], images[35:66]
    assert alone(network.eval(), *parts) == 1
    assert alone(network.train(), *parts) < 0.95


def test_the_same_share_of_an_output():
    right = torch.randn(5, 3)
    assert consistent.same(right, right) == 1
    assert consistent.same(0.75 * right, right) == pytest.approx(0.75)


def test_exact_statistics_are_what_the_others_are_held_against(context):
    trial = ClaimTrial(claim="consistent", arm="stored", seed=0, where={"batch_size": 4}, lr=2.0**-6)
    found = {(row.arm, row.metric): row.value for row in consistent.run(trial, context, lambda: None)}
    assert found["exact", "same"] == found["exact", "alone"] == found["stored", "alone"] == 1
    assert found["batch", "same"] < found["stored", "same"] < 0.95
    assert found["batch", "alone"] < 0.95


def test_every_batch_size_is_shown_as_many_images(context):
    steps = {cell.where["batch_size"]: cell.steps for cell in consistent.cells(context)}
    shown = len(context.images.train) * context.epochs(consistent.IMAGES)
    assert set(steps) == set(consistent.BATCHES)
    assert all(shown <= size * taken < shown * 1.5 for size, taken in steps.items())


def test_no_more_images_than_the_subset(context, monkeypatch):
    monkeypatch.setattr(consistent, "SUBSET", 50)
    few = consistent.limited(context)
    assert len(few.images.train) == 50 and len(few.images.test) == 80
    assert torch.equal(few.images.train.images, context.images.train.images[:50])
    assert {cell.where["batch_size"] for cell in consistent.cells(context)} == {4, 16}


# 20: population


@pytest.fixture(scope="module")
def network(context):
    return initialised(lambda: dense(context, NORMS["bn"], depth=2, width=32), 0)


def test_all_images_give_the_reference(context, network):
    everything = torch.arange(len(context.images.train))
    exact = measure(network, [context.scale(context.images.train.images)], flow="sequential")
    found = population.of_images(network, context, everything)
    assert estimation_shift(found, exact).mean == pytest.approx(0, abs=1e-6)
    shuffled = population.of_images(network, context, everything.flip(0))
    assert estimation_shift(shuffled, exact).mean == pytest.approx(0, abs=1e-6)


def test_fewer_images_are_further_off(context, network):
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(context.images.train), generator=draw)
    everything = population.of_images(network, context, order)
    few, more = (estimation_shift(population.of_images(network, context, order[:n]), everything).mean for n in (8, 64))
    assert few > 2 * more > 0


def test_the_networks_own_statistics_stay(context, network):
    before = statistics(network)
    population.of_images(network, context, torch.arange(16))
    assert statistics(network) == before


def test_what_few_images_lose_is_found(context, monkeypatch):
    """Statistics that are as good as all lose nothing; those of one draw that are useless do."""
    exact = population.of_images

    def broken(network, context, rows):
        found = exact(network, context, torch.arange(len(context.images.train)))
        if len(rows) == 16:
            moments = found["norm1"]
            found = type(found)(dict(found) | {"norm1": replace(moments, mean=moments.mean + 100)})
        return found

    monkeypatch.setattr(population, "of_images", broken)
    trial = ClaimTrial(claim="population", arm="all", seed=0, where={"network": "mlp"}, lr=2.0**-4)
    rows = list(population.run(trial, context, lambda: None))
    found = {(row.arm, row.metric): row.value for row in rows}
    assert found["images-64", "accuracy"] == found["all", "accuracy"] > 0.5 > found["images-16", "accuracy"]
    assert found["images-64", "shift"] == found["all", "shift"] == 0 < found["images-16", "shift"]


def test_the_effect_is_all_less_few():
    rows = [("all", "accuracy", 0.75), ("images-64", "accuracy", 0.5), ("images-256", "accuracy", 1.0)]
    evidence = Evidence(record_of("population", rows, {"network": "mlp"}), "population")
    effects = {part.name: effect for part in population.CLAIM.parts if (effect := part.effect(evidence))}
    assert effects == {"64 images (mlp)": {0: 0.25}, "256 images (mlp)": {0: -0.25}}


def record_of(claim, rows, where=None):
    """A record of (arm, metric, value), all of seed 0."""
    trials = {str(n): {"claim": claim, "arm": rows[n][0], "seed": 0, "where": where or {}} for n in range(len(rows))}
    return Record(
        command="",
        trials=trials,
        rows=tuple(Measurement(str(n), arm, None, metric, value) for n, (arm, metric, value) in enumerate(rows)),
    )

"""What one trial measures, against the same training done again by other means."""

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import truenorm as tn
from truenorm.lab.images.sets import load
from truenorm.lab.study.arms import resolve, rules_for
from truenorm.lab.study.configuration import StudyTrial
from truenorm.lab.study.context import open_context
from truenorm.lab.study.training import train
from truenorm.lab.study.trial import EVALUATION_BATCH, recipe
from truenorm.stats import squared_error

LAYERS = ("norm1", "norm2")
MOMENTA = (0.01, 0.1, 0.5)
OUTCOMES = ("accuracy", "sensitivity", "specificity", "f_score", "nll")
SHIFTS = ("shift.joint", "shift.sequential", "shift.arriving", "esm_mean.joint", "esm_var.joint")


@pytest.fixture(scope="session")
def images(tiny):
    return load(tiny.data[0], limit=tiny.limit)


@pytest.fixture(scope="session")
def value(tiny, tiny_record):
    """(arm, metric, layer, seed) → the recorded number."""
    seeds = {name: trial["seed"] for name, trial in tiny_record.trials.items()}
    rows = [((row.arm, row.metric, row.layer, seeds[row.trial]), row) for row in tiny_record.rows]
    assert len(dict(rows)) == len(rows)  # nothing is there twice

    def find(arm, metric, layer=None, seed=0):
        return dict(rows)[arm, metric, layer, seed].value

    return find


def test_every_arm_with_every_metric_of_every_layer(tiny, tiny_record):
    same, others = resolve(tiny.arms, tiny.momenta)
    expected = {norm: {(norm, None, "training_loss")} for norm in ("bn", *others)}
    for arm in (*(arm.name for arm in same), *others):
        cells = expected[arm if arm in others else "bn"]
        cells |= {(arm, None, metric) for metric in OUTCOMES}
        layers = {"bn-bfn": LAYERS[:1], "gn": ()}.get(arm, LAYERS)
        cells |= {(arm, layer, metric) for layer in layers for metric in SHIFTS}
        if arm.startswith(("static", "dmbn", "pooled", "adaptive", "dynamic")):
            cells |= {(arm, layer, "momentum") for layer in layers}
    for name, trial in tiny_record.trials.items():
        rows = (row for row in tiny_record.rows if row.trial == name)
        found = {(row.arm, row.layer, row.metric) for row in rows if "@" not in row.metric}
        assert found == expected[trial["norm"]]


def test_every_arm_with_its_confusion_matrix(tiny, tiny_record, images):
    same, others = resolve(tiny.arms, tiny.momenta)
    arms = {"bn": [arm.name for arm in same]} | {norm: [norm] for norm in others}
    trials = {name: trial["norm"] for name, trial in tiny_record.trials.items()}
    assert [(one.trial, one.arm) for one in tiny_record.class_counts] == [
        (trial, arm) for trial, norm in trials.items() for arm in arms[norm]
    ]
    recorded = {(row.trial, row.arm, row.metric): row.value for row in tiny_record.rows if row.layer is None}
    for one in tiny_record.class_counts:
        assert [sum(row) for row in one.counts] == images.test.labels.bincount().tolist()
        right = sum(one.counts[k][k] for k in range(10))
        assert recorded[one.trial, one.arm, "accuracy"] == right / 359


def test_the_matrix_is_that_of_torchs_own_statistics_on_the_same_weights(tiny, images, tiny_record):
    network = trained_plainly(tiny, images, 0.1, 0).eval()
    with torch.no_grad():
        predicted = network(scaled(images, "test")).argmax(1)
    expected = confusion_matrix(images.test.labels, predicted, labels=range(10))
    (found,) = (
        one.counts
        for one in tiny_record.class_counts
        if one.arm == "static-0.1" and tiny_record.trials[one.trial]["seed"] == 0
    )
    assert found == tuple(map(tuple, expected.tolist()))


def test_counts_and_noise_floors(tiny_record):
    for row in tiny_record.rows:
        if row.metric in OUTCOMES:
            assert row.n == 359
        if row.metric == "shift.arriving":
            assert row.n == 200
            assert row.error is None  # one batch does not tell how dependent its values are
        if row.metric == "shift.joint":
            assert 0 < row.error < 0.3


# The same trial by other means: plain torch, unwatched.


def plain_network(tiny, momentum):
    norm = lambda width: nn.BatchNorm1d(width, momentum=momentum)  # noqa: E731  # used twice, here
    a, b = tiny.widths
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, a, bias=False), norm(a), nn.ReLU(),
        nn.Linear(a, b, bias=False), norm(b), nn.ReLU(), nn.Linear(b, 10),
    )  # fmt: skip


def scaled(images, part):
    pixels = images.train.images.double()
    mean, std = pixels.mean().float(), pixels.std(correction=0).float()
    return (getattr(images, part).images.float() - mean) / std


def batches_of(tiny, images):
    x = scaled(images, "train")
    return [
        (x[i : i + tiny.batch_sizes[0]], images.train.labels[i : i + tiny.batch_sizes[0]])
        for i in range(0, 200, tiny.batch_sizes[0])
    ]


def trained_plainly(tiny, images, momentum, seed):
    torch.manual_seed(seed)
    network = plain_network(tiny, momentum)
    optimizer = torch.optim.SGD(network.parameters(), tiny.lr[0], momentum=0.9, weight_decay=tiny.weight_decay)
    x, y = scaled(images, "train"), images.train.labels
    generator, step, steps = torch.Generator().manual_seed(seed), 0, tiny.epochs * math.ceil(200 / tiny.batch_sizes[0])
    warm_up = steps // 10
    for _ in range(tiny.epochs):
        order = torch.randperm(200, generator=generator)
        for rows in order.split(tiny.batch_sizes[0]):
            late = (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2
            optimizer.param_groups[0]["lr"] = tiny.lr[0] * ((step + 1) / warm_up if step < warm_up else late)
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return network


def outcome(network, images):
    network.eval()
    with torch.no_grad():
        logits = network(scaled(images, "test")).double()
    labels = images.test.labels
    return (logits.argmax(1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize(
    ("arm", "momentum"), [("static-0.01", 0.01), ("static-0.1", 0.1), ("static-0.5", 0.5), ("cumulative", None)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_arm_is_what_torch_would_have_given_on_the_same_weights(tiny, images, value, arm, momentum, seed):
    accuracy, nll = outcome(trained_plainly(tiny, images, momentum, seed), images)
    assert value(arm, "accuracy", seed=seed) == accuracy
    torch.testing.assert_close(value(arm, "nll", seed=seed), nll, rtol=1e-5, atol=0)


def test_this_comparison_sees_another_momentum(tiny, images, value):
    """Planted: momentum 0.02 instead of 0.01."""
    _, nll = outcome(trained_plainly(tiny, images, 0.02, 0), images)
    assert abs(value("static-0.01", "nll") - nll) > 1e-3


def test_layers_that_choose_give_what_the_watchs_rule_gives(value, tiny):
    for seed in range(tiny.seeds):
        for metric in ("accuracy", "nll"):
            assert value("dynamic", metric, seed=seed) == pytest.approx(value("adaptive", metric, seed=seed), rel=1e-5)
        for layer in LAYERS:
            assert value("dynamic", "momentum", layer, seed) == value("adaptive", "momentum", layer, seed)
            off = [value(arm, "shift.joint", layer, seed) for arm in ("dynamic", "adaptive")]
            assert off[0] == pytest.approx(off[1], rel=1e-4)


def test_update_bn_is_torchs_own(tiny, images, value):
    network = trained_plainly(tiny, images, 0.1, 0)
    update_bn(batches_of(tiny, images), network)
    accuracy, nll = outcome(network, images)
    assert value("update_bn", "accuracy") == accuracy
    torch.testing.assert_close(value("update_bn", "nll"), nll, rtol=1e-5, atol=0)


def test_recalibrated_and_sequential_by_hand(tiny, images, value):
    """Pooled moments written out; sequential as one giant batch with momentum 1, without n/(n−1)."""
    network = trained_plainly(tiny, images, 0.1, 0)
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm1d)}
    seen = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda m, inputs, name=name: seen[name].append(inputs[0].double()))
    network.train()
    with torch.no_grad():
        for x, _ in batches_of(tiny, images):
            network(x)
        for name, norm in norms.items():
            values = torch.cat(seen[name])
            norm.running_mean.copy_(values.mean(0))
            norm.running_var.copy_(values.var(0, correction=0))
    accuracy, nll = outcome(network, images)
    assert value("recalibrated", "accuracy") == accuracy
    torch.testing.assert_close(value("recalibrated", "nll"), nll, rtol=1e-5, atol=0)

    with torch.no_grad():
        network.train()(scaled(images, "train"))
        for name, norm in norms.items():
            norm.running_mean.copy_(seen[name][-1].mean(0))
            norm.running_var.copy_(seen[name][-1].var(0, correction=0))
    accuracy, nll = outcome(network, images)
    assert value("sequential", "accuracy") == accuracy
    torch.testing.assert_close(value("sequential", "nll"), nll, rtol=1e-5, atol=0)


def test_what_is_zero_by_construction(value):
    for seed in (0, 1):
        for layer in LAYERS:
            assert value("recalibrated", "shift.joint", layer, seed) == 0
            assert value("sequential", "shift.sequential", layer, seed) == 0
            assert value("sequential", "shift.arriving", layer, seed) <= 1e-4
            # The same measures are not zero where they need not be.
            assert value("recalibrated", "shift.sequential", LAYERS[1], seed) > 1e-3
            assert value("static-0.01", "shift.arriving", layer, seed) > 0.1


@pytest.fixture(scope="session")
def again(tiny, images):
    """The trial of seed 0 watched once more: its watch and its joint population."""
    bench = open_context(tiny, "mlp", images, resolve(tiny.arms, tiny.momenta)[0], torch.device("cpu"))
    trial = StudyTrial(norm="bn", lr=0.05, seed=0, setting=tiny.settings[0])
    network, feed = bench.network(trial), bench.feed("train", tiny.batch_sizes[0])
    with tn.watch(network, rules_for(bench.arms, bench.momenta)) as watched:
        train(network, feed, recipe(trial))
    return watched, tn.measure(network, feed), network, bench


@pytest.mark.parametrize(("arm", "kind"), [("dmbn", "static"), ("dmbn-pooled", "pooled")])
def test_each_layer_took_its_momentum_of_least_shift(again, value, arm, kind):
    watched, joint, _, _ = again
    best = watched.best(joint, among=kind)
    for layer in LAYERS:
        errors = {m: squared_error(watched[f"{kind}-{m:g}"][layer], joint[layer]) for m in MOMENTA}
        assert squared_error(best[layer], joint[layer]) == min(errors.values())
        assert value(arm, "momentum", layer) == min(errors, key=errors.get)
    assert len({round(error, 12) for error in errors.values()}) == len(MOMENTA)


def test_shift_is_what_the_public_functions_say(again, value):
    watched, joint, network, bench = again
    for arm in ("static-0.01", "adaptive", "pooled-0.1"):
        report = tn.estimation_shift(watched[arm], joint)
        found = [[value(arm, f"{m}.joint", layer) for m in ("shift", "esm_mean", "esm_var")] for layer in LAYERS]
        expected = [[report[layer].shift, report[layer].esm_mean, report[layer].esm_var] for layer in LAYERS]
        # float64, folded in other blocks of batches
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        with tn.using(network, watched[arm]):
            arriving = tn.measure(network, bench.feed("train", EVALUATION_BATCH), flow="eval")
        shift = tn.estimation_shift(watched[arm], arriving)[LAYERS[1]].shift
        torch.testing.assert_close(value(arm, "shift.arriving", LAYERS[1]), shift, rtol=1e-5, atol=0)


def test_one_rate_for_the_momentum_of_a_fixed_rule(value):
    for momentum in MOMENTA:
        assert [value(f"static-{momentum:g}", "momentum", layer) for layer in LAYERS] == [momentum] * 2
    assert {value("dmbn-switch", "momentum", layer) for layer in LAYERS} <= set(MOMENTA)


def test_making_a_network_leaves_the_random_state(tiny, images, no_global_draws):
    bench = open_context(tiny, "mlp", images, (), torch.device("cpu"))
    a, b = (bench.network(StudyTrial(norm="bn", lr=0.05, seed=5, setting=tiny.settings[0])) for _ in "12")
    other = bench.network(StudyTrial(norm="bn", lr=0.05, seed=6, setting=tiny.settings[0]))
    assert torch.equal(a[1].weight, b[1].weight)
    assert not torch.equal(a[1].weight, other[1].weight)


def test_networks_of_one_seed_start_from_the_same_linear_layers(tiny, images):
    bench = open_context(tiny, "mlp", images, (), torch.device("cpu"))
    bn, bfn, gn = (
        bench.network(StudyTrial(norm=norm, lr=0.05, seed=5, setting=tiny.settings[0]))
        for norm in ("bn", "bn-bfn", "gn")
    )
    for layer in (1, 4, 7):
        assert torch.equal(bn[layer].weight, bfn[layer].weight)
        assert torch.equal(bn[layer].weight, gn[layer].weight)

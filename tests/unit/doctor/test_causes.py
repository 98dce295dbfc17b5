"""Each cause is named in a network made for it, and its evidence is what an independent computation gives."""

import contextlib
import math

import numpy as np
import oracle
import patients
import pytest
import torch
from patients import PATIENTS
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.doctor import rank
from truenorm.doctor.causes import CAUSES
from truenorm.doctor.decision import ranked
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import (
    ChangeCode,
    ChangeTraining,
    ConvertLayers,
    CountOnce,
    NormaliseAlone,
    Nothing,
    Preprocess,
    ReorderClasses,
    RepairStatistics,
    RetrainWith,
    SetEps,
    Unfreeze,
)


def examined(cause, *arguments):
    """The finding of this cause, in its own patient or another."""
    make = PATIENTS[cause] if not arguments else arguments[0]
    net, data, how = make()
    found = tn.diagnose(net, data, **how)
    return next(finding for finding in found.findings if finding.cause == cause)


def off(net, data):
    """d² + 2λ², mean over the channels of each batch norm, from what reaches it in evaluation."""
    found = {}
    for name, values in patients.reached(net, data).items():
        layer = net.get_submodule(name)
        mean, var, _ = oracle.moments(values)
        d = (layer.running_mean.double().numpy() - mean) / np.sqrt(var)
        log = np.log(layer.running_var.double().numpy() / var) / 2
        found[name] = float(np.mean(d**2 + 2 * log**2))
    return found


def test_there_is_a_patient_for_every_cause():
    assert set(PATIENTS) == set(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_first_where_it_is_the_cause(cause):
    net, data, how = PATIENTS[cause]()
    found = tn.diagnose(net, data, **how)
    if any(finding.cause == cause and finding.level == "note" for finding in found.findings):
        assert cause in [finding.cause for finding in found.findings if finding.level == "note"]
        assert found.cause != cause
    else:
        assert found.cause == cause


@pytest.mark.parametrize("kind", ["mlp", "single", "cnn"])
def test_no_cause_is_named_where_nothing_is_off(kind):
    data = patients.digits(20, start=36) if kind == "cnn" else patients.held_out()
    found = tn.diagnose(patients.sound(kind), data)
    assert found.findings == ()
    assert found.healthy


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_certain_is_certain_without_data(cause):
    """A defect that needs no data is found without; a cause that needs them is not made up."""
    net, data, how = PATIENTS[cause]()
    data = patients.held_out() if data is None else data
    if cause in ("half precision", "program in training mode"):
        pytest.skip("its network takes no such data")
    with_data = {f.cause for f in tn.diagnose(net, data, **how).findings if f.level == "defect"}
    without = {f.cause for f in tn.diagnose(net, **how).findings if f.level == "defect"}
    beside = {"momentum"} if cause == "momentum" else set()  # a habit that is looked at by its effect, where it can be
    assert without - beside <= with_data
    # A new network holds 0 and 1 too; and only data tell a repeated forward from a layer that is called twice.
    needs_data = {"never updated", "updated twice", "frozen statistics"}
    assert with_data - needs_data <= without


# Buffers that hold no statistics


def test_not_finite():
    found = examined("not finite")
    assert found.evidence == {"channels": 2, "of_channels": 8}
    assert found.layers == ("bn1",) and found.level == "defect" and found.remedy == RepairStatistics()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_one_value_is_enough(value, buffer):
    net = patients.sound()
    getattr(net.bn2, buffer)[0] = value
    for data in (None, patients.held_out()):
        found = tn.diagnose(net, data)
        assert found.cause == "not finite" and not found.healthy
        assert found.findings[0].layers == ("bn2",)


def test_negative_variance():
    found = examined("negative variance")
    assert found.evidence == {"lowest": -0.25}
    assert found.layers == ("bn2",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    found = tn.diagnose(patients.sound().to(dtype)).findings[0]
    assert found.evidence == {"dtype": str(dtype).removeprefix("torch.")}
    assert found.layers == ("bn1", "bn2")


# Averages that have not moved, or too much


def test_never_updated():
    found = examined("never updated")
    assert found.layers == ("bn1",)
    net = patients.mlp()
    assert tn.diagnose(net, patients.held_out()).findings[0].layers == ("bn1", "bn2")


@pytest.mark.parametrize("momentum", [0.005, 0.02, 0.05])
def test_initial_values(momentum):
    found = examined("initial values", lambda: patients.initial(momentum))
    assert found.evidence == {"momentum": momentum, "batches": 40, "left": pytest.approx((1 - momentum) ** 40)}
    assert found.explained > 0.9 and found.rank is None


@pytest.mark.parametrize("left", [0.3, 0.6])
def test_initial_values_that_momentum_and_count_do_not_explain(left):
    """The momentum of a network that was built for a checkpoint is a guess: the one that fits is named."""
    found = examined("another momentum in training", lambda: patients.another_momentum(left))
    assert found.evidence["left"] == pytest.approx(left, abs=0.03)
    assert (found.evidence["momentum"], found.evidence["batches"]) == (0.1, 40)
    assert (1 - found.evidence["fits"]) ** 40 == pytest.approx(found.evidence["left"])
    assert found.explained > 0.9


@pytest.mark.parametrize("left", [0.3, 0.6])
def test_what_contradicts_momentum_and_count_is_no_finding_where_they_are_known(left):
    net, data, _ = patients.another_momentum(left)
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)
    net(data[0][0]).sum().backward()
    optimizer.step()
    found = tn.diagnose(net, data, optimizer=optimizer)
    assert not {"initial values", "another momentum in training"} & {finding.cause for finding in found.findings}


def test_initial_values_that_nobody_counted():
    net, data, _ = patients.another_momentum(0.5)
    for layer in patients.norms(net):
        layer.num_batches_tracked.zero_()
    found = examined("initial values", lambda: (net, data, {}))
    assert found.evidence == {"momentum": None, "batches": None, "left": pytest.approx(0.5, abs=0.03)}


# Numbers of other conventions


@pytest.mark.parametrize("by", [0.2, 12.5, 300.0])
def test_a_common_factor(by):
    found = examined("common factor", lambda: patients.factor(by))
    assert found.evidence == {"factor": pytest.approx(by, rel=0.1), "compared": 2} and found.explained > 0.9


@pytest.mark.parametrize("stored", patients.CONVENTIONS)
def test_another_number_than_the_variance(stored):
    found = examined("not the variance", lambda: patients.not_the_variance(stored))
    assert found.evidence == {"stored": stored} and found.explained > 0.8


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_a_buffer_that_was_never_updated(buffer):
    found = examined("updated in part", lambda: patients.updated_in_part(buffer))
    assert found.evidence == {"buffer": buffer} and found.explained > 0.9


@pytest.mark.parametrize("weight", ["1", "1 + γ", "|γ|"])
def test_weights_that_training_did_not_use(weight):
    net, data, _ = patients.unused_weights(weight)
    diagnosis = tn.diagnose(net, data)
    found = diagnosis.findings[0]
    assert found.cause == "weights of batch norm" and found.evidence["weight"] == weight
    assert found.explained > 0.9 and not diagnosis.healthy


# What train() does beside batch norm


@pytest.mark.parametrize("change", [lambda x: F.dropout(x, 0.5), lambda x: x + torch.randn_like(x)])
def test_randomness_of_any_form_is_found_and_placed(change):
    found = examined("randomness", lambda: patients.random_in_training(change))
    assert found.evidence == {"modules": ("",), "classes": ("InTraining",)} and found.explained > 0.9


def test_a_difference_of_train_that_is_not_random():
    found = examined("training mode")
    assert found.evidence == {"modules": ("",), "classes": ("InTraining",)} and found.explained > 0.9


# What is frozen, folded or permuted


def test_frozen_statistics_that_do_harm():
    net, data, _ = patients.frozen_statistics()
    diagnosis = tn.diagnose(net, data)
    assert diagnosis.cause == "frozen statistics" and diagnosis.outcome.kind == "frozen" and not diagnosis.healthy
    assert diagnosis.findings[0].layers == ("bn2",)
    assert [type(step.remedy) for step in diagnosis.steps] == [Unfreeze, RepairStatistics]
    assert tn.repair(net, data).chosen is None, "what is frozen stays as it is"
    tn.unfreeze(net)
    assert tn.repair(net, data).chosen is not None


def test_statistics_that_were_folded_are_healthy():
    net, data, _ = patients.folded()
    diagnosis = tn.diagnose(net, data)
    assert diagnosis.healthy and diagnosis.cause is None and diagnosis.outcome.kind == "harmless"
    assert [(f.cause, f.level, f.layers) for f in diagnosis.findings] == [("folded statistics", "note", ("bn1", "bn2"))]
    assert diagnosis.steps[0].remedy == Nothing()


def test_the_order_of_the_classes():
    diagnosis = tn.diagnose(*patients.order_of_classes()[:2])
    found = diagnosis.findings[0]
    assert found.cause == "order of classes" and diagnosis.outcome.kind == "other remedy" and not diagnosis.healthy
    assert found.evidence["shift"] == 1 and found.evidence["order"] == (1, 2, 0)
    assert found.evidence["before"] < 0.1 < 0.8 < found.evidence["after"]
    assert diagnosis.steps[0].remedy == ReorderClasses()


def test_momentum_zero():
    found = examined("momentum 0")
    assert found.layers == ("bn1", "bn2") and found.level == "defect"
    assert tn.diagnose(*patients.momentum_zero()[:2]).steps[0].remedy == RepairStatistics()


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_momentum_that_was_taken_for_a_decay(momentum):
    found = examined("momentum", lambda: patients.momentum(momentum))
    expected = {"momentum": momentum, "window": (2 - momentum) / momentum, "keras": 1 - momentum}
    assert found.evidence == pytest.approx(expected)
    assert found.layers == ("bn1", "bn2")


def test_the_window_of_a_momentum_is_what_it_is_said_to_be():
    """(2 − m)/m batches: as many, weighing the same, leave the same noise."""
    for m in (0.9, 0.3, 0.1):
        weights = m * (1 - m) ** np.arange(2000)
        assert 1 / np.sum(weights**2) == pytest.approx((2 - m) / m)


@pytest.mark.parametrize("size", [4, 8])
def test_sampling_noise(size):
    net, data, _ = patients.noise(size)
    found = examined("sampling noise", lambda: patients.noise(size))
    assert found.evidence["momentum"] == 0.3
    assert found.evidence["window"] == pytest.approx((2 - 0.3) / 0.3)
    assert found.evidence["sigma"] == pytest.approx(math.sqrt(off(net, data)["bn1"]), rel=0.2)
    assert size / 2 <= found.evidence["samples"] <= 2 * size


def test_lag():
    found = examined("lag")
    assert (found.evidence["momentum"], found.evidence["window"]) == (0.1, pytest.approx((2 - 0.1) / 0.1))


# Batches


@pytest.mark.parametrize("size", [4, 8])
def test_variance_convention(size):
    found = examined("variance convention", lambda: patients.variance(size))
    assert found.evidence["batch_size"] == size
    assert found.evidence["unbiased"] == size / (size - 1)
    assert found.explained > 0.5  # of all layers; the first is right, and its noise is not explained
    assert found.evidence["ratio"] == pytest.approx(size / (size - 1), rel=0.05)  # vectors: n is the batch size
    assert found.remedy.next_time == ConvertLayers(small_batch=size if size <= 4 else None)


def test_tiny_batches():
    found = examined("tiny batches")
    assert found.evidence == {"batch_size": 4, "convention": None}
    assert found.remedy == RetrainWith(norms=("group", "bn-bfn"))


def test_sorted_batches():
    found = examined("sorted batches")
    labels = torch.cat([y for _, y in patients.blobs()]).sort().values.split(32)
    age = np.arange(len(labels))[::-1]
    expected = sum(0.1 * 0.9**t * float((y == 2).float().mean()) for t, y in zip(age, labels, strict=True))
    assert found.evidence["heaviest"] == 2
    assert found.evidence["weight"] == pytest.approx(expected, abs=0.08)
    assert found.explained > 0.9
    assert found.remedy == RepairStatistics(next_time=ChangeTraining(what="shuffle"))


def test_batches_of_one_class_each_in_any_order():
    """No class weighs more than another: what is missing is the variance between them."""
    x, y = patients.joined(patients.blobs())
    pure = [batch for k in range(3) for batch in patients.cut(x[y == k], y[y == k])]
    order = torch.randperm(len(pure), generator=torch.Generator().manual_seed(0))
    net = patients.run(patients.sound(), [pure[i] for i in order], None)
    found = examined("sorted batches", lambda: (net, patients.held_out(), {}))
    assert found.evidence["heaviest"] is None


# Data


@pytest.mark.parametrize(
    ("scale", "offset", "rel"),
    [(4.0, 1.0, 0.05), (1 / 58, 0.0, 0.05), (0.25, 0.47, 0.3), (1.0, -2.0, 0.3)],  # the zeros of the padding move not
)
def test_preprocessing(scale, offset, rel):
    net, data, _ = patients.preprocessing(scale, offset)
    found = tn.diagnose(net, data)
    assert found.cause == "preprocessing" and not found.healthy
    assert not found.findings[0].evidence["reverse"]
    evidence = found.findings[0].evidence
    a, (b,) = evidence["scale"], evidence["offset"]
    # a·(scale·x + offset) + b is x again
    assert a * scale == pytest.approx(1, rel=rel)
    assert a * offset + b == pytest.approx(0, abs=0.06)
    assert found.findings[0].explained > 0.9
    assert evidence["metric"] == "accuracy"
    assert evidence["before"] == pytest.approx(found.scores["as it is"]["accuracy"], abs=6e-4)
    with torch.no_grad():
        right = np.mean([(net(a * x + b).argmax(1) == y).double().mean() for x, y in data])
    assert evidence["after"] == pytest.approx(right, abs=0.05)
    remedy = Preprocess(scale=a, offset=(b,))
    better = evidence["repaired"] is None or evidence["after"] > evidence["repaired"]
    assert found.findings[0].remedy in (remedy, RepairStatistics())
    assert better or found.findings[0].remedy != remedy


def test_domain():
    net, data, _ = patients.domain()
    found = examined("domain")
    mean, var, _ = oracle.moments(patients.reached(net, data)["bn1"])
    expected = oracle.shift(net.bn1.running_mean.numpy(), net.bn1.running_var.numpy(), mean, var)
    assert found.evidence["shift"] == pytest.approx(expected, rel=0.1)
    assert found.layers == ("bn1",)


@pytest.mark.parametrize("where", ["wider blobs", "a first layer that is off, data in fours"])
def test_what_explains_the_little_behind_the_first_layer_explains_no_shift(where):
    """Their own error is 0.1 and 0.02 σ, that of the first layer ten times as much and more."""
    if where == "wider blobs":
        net, data, _ = patients.wider()
    else:
        net, data = patients.sound(), patients.blobs(256, 4, seed=2)
        net.bn1.running_mean += 1
    found = tn.diagnose(net, data)
    assert found.layers[0].layer == "bn1"
    assert found.cause != "variance convention"


# Weights


@pytest.mark.parametrize("rate", [0.4, 0.6])
def test_dropout(rate):
    found = examined("dropout", lambda: patients.dropout(rate))
    assert found.evidence == {"dropouts": ("drop",), "rates": (rate,)}
    assert found.explained > 0.85


def test_dropout_that_is_off_is_no_cause():
    net, data, _ = patients.initial()
    net.relu1 = nn.Sequential(nn.ReLU(), nn.Dropout(0.0))
    assert [f.cause for f in tn.diagnose(net, data).findings] == ["initial values"]


def test_averaged_weights_that_say_so():
    assert examined("averaged weights").evidence == {"models": 60}


def test_averaged_weights_that_do_not():
    net, data, _ = patients.merged()
    found = examined("averaged weights", patients.merged)
    # What each layer would divide by, were all right: one giant batch.
    x, _ = patients.joined(data)
    seen, less, ratios = {}, [], []
    for layer in patients.norms(net):
        layer.register_forward_pre_hook(lambda layer, x: seen.__setitem__(layer, x[0].numpy()))
    stored = {layer: layer.running_var.clone().numpy() for layer in patients.norms(net)}
    with torch.no_grad():
        net.train()(x)
    for layer, values in seen.items():
        log = np.log(stored[layer] / oracle.moments(values)[1]) / 2
        less.append((log > 0).mean())
        ratios.append(np.exp(np.sort(log)[(len(log) - 1) // 2]))  # torch's median: the lower of the two in the middle
    assert found.evidence["channels"] == pytest.approx(np.mean(less), abs=0.08)
    assert found.evidence["factor"] == pytest.approx(min(ratios), rel=0.1)


def test_pruned_weights():
    net, _, _ = patients.pruned()
    weights = np.concatenate([layer.weight.detach().numpy().ravel() for layer in (net.fc1, net.fc2, net.head)])
    assert examined("pruned weights").evidence == {"zeros": pytest.approx(np.mean(weights == 0))}


def test_pruned_weights_with_the_statistics_taken_anew_are_none_of_it():
    net, data, _ = patients.pruned()
    patients.settled(net, patients.blobs())
    assert tn.diagnose(net, data).findings == ()


# Training


def test_updated_twice():
    found = examined("updated twice")
    assert found.evidence == {"batches": 80, "others": 40, "ratio": 2, "data": False}
    assert found.layers == ("bn2",)


def test_the_momentum_that_mends_counting_twice():
    """1 − √(1 − m), twice, is m once: for the same batch."""
    assert examined("updated twice").remedy == CountOnce(layer="bn2")
    once, twice = nn.BatchNorm1d(4, momentum=0.1), nn.BatchNorm1d(4, momentum=1 - math.sqrt(1 - 0.1))
    x = torch.randn(16, 4)
    once(x), twice(x), twice(x)
    torch.testing.assert_close(once.running_mean, twice.running_mean)
    torch.testing.assert_close(once.running_var, twice.running_var)


def test_updated_twice_in_all_layers_is_told_by_the_optimizer():
    found = examined("updated twice", patients.updated_twice_in_all)
    assert found.evidence == {"batches": 40, "steps": 20, "ratio": 2}


@pytest.mark.parametrize("steps", [10, 27, 40])
def test_a_few_forwards_more_than_steps_are_usual(steps):
    net, _, how = patients.updated_twice_in_all(steps)
    assert tn.diagnose(net, **how).findings == ()


def test_sgd_counts_no_steps():
    net = patients.sound()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    patients.train(net, patients.blobs(), 2)
    assert tn.diagnose(net, optimizer=optimizer).findings == ()


def test_called_several_times():
    """What one call gets is −2 times what the other gets: d is how far the means are apart."""
    net, data, _ = patients.called_several_times()
    found = examined("called several times")
    x, _ = patients.joined(data)
    mean, var, _ = oracle.moments(net.fc(x).detach().numpy())
    first, second = (mean, var), (-2 * mean, 4 * var)
    log = np.log(2)
    expected = [np.mean((3 * mean) ** 2 / of[1] + 2 * log**2) ** 0.5 for of in (first, second)]
    assert found.evidence["calls"] == 2
    assert min(expected) * 0.9 < found.evidence["apart"] < max(expected) * 1.1
    assert found.layers == ("norm",) and found.remedy == ChangeCode(what="a norm for each call")


def test_calls_that_see_one_population_are_no_cause():
    """Parts of a batch, and a layer that is called twice in a row, each with what it was trained on."""
    net = patients.sound()
    ghost = nn.Module()
    ghost.net = net
    ghost.forward = lambda x: torch.cat([net(part) for part in x.chunk(4)])
    net.bn2.running_mean += 1
    found = tn.diagnose(ghost, patients.held_out())
    assert "called several times" not in [finding.cause for finding in found.findings]
    assert found.looked.repeated == ("net.bn1", "net.bn2") and not found.healthy


def test_by_the_batch():
    found = examined("by the batch")
    assert found.layers == ("bn1", "bn2") and found.level == "defect"
    net, data, _ = patients.by_the_batch()
    alone, together = net(data[0][0][:4]), net(data[0][0])[:4]
    assert (alone - together).abs().max() > 0.1  # as the sentence says
    with pytest.raises(tn.errors.InvalidInput, match="normalises by its batch in eval"):
        tn.freeze(net)


def test_a_norm_without_buffers_that_takes_its_batch():
    class Bare(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)) / x.std(0)

    found = tn.diagnose(nn.Sequential(nn.Linear(4, 3), Bare()), patients.held_out())
    assert found.cause == "by the batch" and found.findings[0].layers == ("1",) and not found.healthy


def test_frozen_by_class():
    net, data, _ = patients.frozen_by_class()
    assert examined("frozen by class").layers == ("bn1",)
    net.bn1.running_mean += 2
    wrong = tn.diagnose(net, data)
    assert wrong.cause == "frozen statistics" and wrong.layers[0].layer == "bn1" and not wrong.healthy
    assert wrong.findings[0].remedy == Unfreeze(layers=("bn1",), by="class")


def test_batches_of_one():
    net, data, _ = patients.batches_of_one()
    found = examined("batches of one")
    assert found.remedy == NormaliseAlone()
    assert found.evidence["after"] > found.evidence["repaired"] + 0.2

    def right(model):
        with torch.no_grad():
            return np.mean([float(model(x).argmax(1) == y) for x, y in data])

    before = right(net)
    converted = tn.convert(net, to="instance").eval()
    assert right(converted) > before + 0.2  # what is advised helps


def test_frozen_parameters():
    found = examined("frozen parameters")
    assert found.layers == ("bn1", "bn2")
    net = patients.frozen_parameters()[0]
    assert tn.freeze(net, found.remedy.next_time.layers) == found.layers
    before = patients.bits(net)
    net.train()(patients.blobs(1)[0][0])
    patients.assert_same_bits(net.state_dict(), before)


def test_the_advised_pattern_freezes_what_is_to_be_frozen_only():
    net = patients.frozen_parameters()[0]
    for value in net.bn2.parameters():
        value.requires_grad_(True)
    net.add_module("neck", nn.BatchNorm1d(3))
    net.add_module("last", nn.BatchNorm1d(3))
    for value in net.last.parameters():
        value.requires_grad_(False)
    patients.run(net, patients.blobs(5), 0.1, as_left=True)
    found = next(f for f in tn.diagnose(net, patients.held_out()).findings if f.cause == "frozen parameters")
    assert found.layers == ("bn1", "last")
    assert tn.freeze(net, found.remedy.next_time.layers) == found.layers


def test_frozen_by_eval():
    found = examined("frozen by eval()")
    assert found.layers == ("bn1",) and found.level == "note"


def test_frozen_by_eval_is_seen_without_data():
    net, _, _ = patients.frozen_by_eval()
    assert "frozen by eval()" in [finding.cause for finding in tn.diagnose(net).findings]


def test_eps():
    found = examined("eps")
    assert (found.evidence["other_eps"], found.evidence["eps"]) == ((1e-5,), 1e-3)
    assert found.evidence["framework"] == "Keras, TensorFlow"
    assert found.explained > 0.9
    net, _, _ = patients.eps()
    lower = [np.quantile(layer.running_var.numpy(), 0.25) for layer in patients.norms(net)]
    assert found.evidence["lower_quartile"] == pytest.approx(min(lower), rel=0.05)
    assert found.remedy == SetEps(eps=1e-3)


def test_the_advised_eps_mends_it():
    net, data, _ = patients.eps()
    before = tn.diagnose(net, data).scores["as it is"]["log likelihood"]
    for layer in patients.norms(net):
        layer.eps = 1e-3
    after = tn.diagnose(net, data)
    assert after.healthy and after.cause is None
    assert after.scores["as it is"]["log likelihood"] > before + 0.1


# Layers


def test_track_running_stats_of_a_layer_that_stores():
    found = examined("track_running_stats")
    assert found.evidence == {"stored": True} and found.layers == ("bn1",)


def test_track_running_stats_of_a_layer_that_does_not():
    found = examined("track_running_stats", patients.without_statistics)
    assert found.evidence == {"stored": False} and found.layers == ("bn1",)
    net, _, _ = patients.without_statistics()
    net.bn2 = nn.BatchNorm1d(6, track_running_stats=False)
    for data in (None, patients.held_out()):
        everywhere = tn.diagnose(net, data)
        assert everywhere.cause == "track_running_stats" and not everywhere.healthy
        assert everywhere.findings[0].layers == ("bn1", "bn2")


def test_dead_channels():
    found = examined("dead channels")
    net, data, _ = patients.dead()
    variances = {name: oracle.moments(values)[1] for name, values in patients.reached(net, data).items()}
    dead = sum(int((var < 1e-3).sum()) for var in variances.values())
    assert (found.evidence["channels"], found.evidence["of_channels"]) == (dead, 8 + 12)
    assert dead == 4 and found.layers == ("bn1",)


# Habits


def test_a_bias_before_batch_norm():
    found = examined("bias before batch norm")
    assert found.layers == ("bn1", "bn2") and found.level == "note"


def test_a_bias_somewhere_else_is_none():
    net = nn.Sequential(nn.Linear(4, 4, bias=True), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    net.append(nn.BatchNorm1d(4))
    assert tn.diagnose(net).findings == ()


@pytest.mark.parametrize(
    ("make", "made", "what"),
    [
        (patients.scripted, "scripted", "eval before scripting"),
        (patients.exported, "exported", "eval before export"),
    ],
)
def test_a_program_in_training_mode(make, made, what):
    found = examined("program in training mode", make)
    assert found.evidence == {"made": made} and found.level == "defect"
    assert found.remedy == ChangeCode(what=what)


def test_a_program_in_evaluation_mode_is_none():
    assert tn.diagnose(patients.scripted(training=False)[0]).findings == ()
    assert tn.diagnose(torch.fx.symbolic_trace(patients.sound())).findings == ()
    assert tn.diagnose(patients.exported(training=False)[0]).findings == ()


@pytest.mark.parametrize("make", [patients.scripted, patients.exported])
def test_a_program_and_data(make):
    """What is certain of it is said, or in one sentence why it cannot be looked at."""
    net, _, _ = make()
    things = patients.everything_else(net)
    with contextlib.suppress(tn.TruenormError):
        assert tn.diagnose(net, patients.held_out()).cause == "program in training mode"
    assert patients.everything_else(net) == things


def test_a_last_batch_of_one():
    found = examined("last batch of one")
    assert found.evidence == {"batches": 33}
    assert found.level == "note"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_weight_decay(optimizer):
    net = patients.sound()
    decayed = [value for value in net.parameters() if value.ndim > 1]
    rest = [value for value in net.parameters() if value.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    assert tn.diagnose(net, optimizer=optimizer(groups, 0.1)).findings == ()
    groups[1]["weight_decay"] = 0.02
    (found,) = tn.diagnose(net, optimizer=optimizer(groups, 0.1)).findings
    assert found.evidence == {"weight_decay": 0.02}


def test_synchronised_alone():
    assert examined("synchronised alone").level == "note"


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_momentum_is_seen_without_data(momentum):
    net = patients.mlp()
    for layer in patients.norms(net):
        layer.momentum = momentum
    found = tn.diagnose(net)
    assert found.cause == ("momentum" if momentum else "momentum 0") and not found.healthy
    assert found.findings[0].layers == ("bn1", "bn2")
    if momentum:
        assert found.findings[0].evidence["window"] == pytest.approx(1.2, abs=0.03)


# The order of causes


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_ranked_is_measured_or_has_a_rank(cause):
    net, data, how = PATIENTS[cause]()
    for found in tn.diagnose(net, data, **how).findings:
        assert found.explained is None or 0 <= found.explained <= 1
        assert (found.explained is None and found.rank is None) == (found.level == "note")


def test_a_measured_cause_goes_before_a_rank_if_it_explains_more_than_its_place():
    pruned = Finding(cause="pruned weights", rank=rank.OTHER_WEIGHTS)
    for explained, first in ((0.83, pruned.cause), (0.86, "dropout")):
        ordered = ranked([pruned, Finding(cause="dropout", explained=explained)])
        assert ordered[0].cause == first
    assert rank.OTHER_WEIGHTS.most < rank.EXPLAINS


def test_behind_a_cause_that_explains_the_shift_only_defects_follow():
    parts = [
        Finding(cause="lag", rank=rank.LATER_LAYERS, evidence={"from_weights": 1.0}),
        Finding(cause="dropout", explained=0.9),
        Finding(cause="track_running_stats", rank=rank.SETTINGS, level="defect"),
    ]
    assert [found.cause for found in ranked(parts)] == ["dropout", "track_running_stats"]
    assert [found.cause for found in ranked(parts[::2])] == ["track_running_stats"]

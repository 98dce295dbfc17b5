"""Networks that are broken by known amounts: what a finding says is what was done, within its error, or it is absent."""

import copy
import math
from collections import OrderedDict
from functools import cache

import patients
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

import truenorm as tn
from truenorm.doctor.causes.tiny import _SIZES

WIDTHS = {
    "mlp of 2": (8, 6),
    "mlp of 3": (12, 16, 8),
    "mlp of 4": (16, 10, 8, 12),
    "cnn of 2": (8, 12),
    "cnn of 3": (6, 12, 10),
}
VECTORS = [name for name in WIDTHS if name.startswith("mlp")]

BATCH = 32
"""Samples in a batch of every training, unless it is drawn."""

ERROR = 0.05

HINTS = {"lag", "domain", "sampling noise", "averaged weights"}
"""Guesses about what nothing explains, without a number that was set here."""

networks = st.sampled_from(list(WIDTHS))
lefts = st.integers(2, 95).map(lambda hundredths: hundredths / 100)
factors = st.integers(-300, 621).map(lambda hundredths: math.exp(hundredths / 100))


def examples(number):
    return settings(max_examples=number, deadline=None, derandomize=True)


def mlp(widths):
    layers, before = OrderedDict(), 4
    for i, width in enumerate(widths, 1):
        layers |= {
            f"fc{i}": nn.Linear(before, width, bias=False),
            f"bn{i}": nn.BatchNorm1d(width),
            f"relu{i}": nn.ReLU(),
        }
        before = width
    return nn.Sequential(OrderedDict(layers, head=nn.Linear(before, patients.CLASSES)))


def cnn(widths):
    layers, before = OrderedDict(), 1
    for i, width in enumerate(widths, 1):
        conv = nn.Conv2d(before, width, 3, stride=1 + (i == 1), padding=1, bias=False)
        layers |= {f"conv{i}": conv, f"bn{i}": nn.BatchNorm2d(width), f"relu{i}": nn.ReLU()}
        before = width
    end = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(before, 10)}
    return nn.Sequential(OrderedDict(layers | end))


def training(name):
    return patients.blobs() if name in VECTORS else patients.digits(36)


@cache
def held_out(name):
    return patients.held_out() if name in VECTORS else patients.digits(20, start=36)


@cache
def _trained(name):
    torch.manual_seed(0)
    net = (mlp if name in VECTORS else cnn)(WIDTHS[name])
    return patients.settled(patients.train(net, training(name), 60 if name in VECTORS else 150), training(name))


def trained(name):
    """With the right statistics."""
    return copy.deepcopy(_trained(name))


def found_in(net, name, *may_be, **known):
    """The causes by name: those that may be, and hints."""
    diagnosis = tn.diagnose(net, held_out(name), **known)
    found = {finding.cause: finding for finding in diagnosis.causes}
    assert set(found) <= {*may_be, *HINTS}
    if unbiased := found.get("variance convention"):
        size = unbiased.evidence["batch_size"]
        assert unbiased.evidence["unbiased"] == pytest.approx(size / (size - 1))
    return found


def assert_size(finding, size):
    """The size that was found is that of the batches, or the next in the list of those that are tried.

    The ratio is that of the stored variances to those within batches of the size that was found: where it is the next
    one, the ratio is off by as much as n/(n − 1) of the two.
    """
    found = finding.evidence["batch_size"]
    near = {*_SIZES[max(0, _SIZES.index(size) - 1) :][:3]}
    assert found in near
    grid = abs(found / (found - 1) / (size / (size - 1)) - 1)
    assert finding.evidence["ratio"] == pytest.approx(size / (size - 1), rel=ERROR + grid)


@examples(40)
@given(networks, st.floats(0.002, 0.3), st.integers(1, 70))
@example("mlp of 4", 0.05078125, 68)  # a little of them is left, and it is not that of smaller batches
def test_what_is_left_of_the_initial_values(name, momentum, batches):
    """(1 − m)ᵗ after t batches with the momentum m."""
    net = patients.run(trained(name), (2 * training(name))[:batches], momentum)
    found = found_in(net, name, "initial values", "variance convention")
    left = (1 - momentum) ** batches
    if "initial values" in found:
        expected = {"momentum": momentum, "batches": batches, "left": left}
        assert found["initial values"].evidence == pytest.approx(expected, rel=1e-6)
    else:
        assert left < 0.1
    if "variance convention" in found:  # that of these batches
        assert_size(found["variance convention"], BATCH)


@examples(60)
@given(networks, lefts, st.sampled_from([0.01, 0.03, 0.1]), st.integers(5, 200), st.booleans())
def test_a_weight_of_the_initial_values_that_momentum_and_count_contradict(name, left, momentum, batches, known):
    """Where they are known, nothing is said of initial values: neither a weight nor another momentum.

    Weights that are nearer to each other than 0.1 are not told apart by samples as small as these.
    """
    assume(abs((1 - momentum) ** batches - left) > 2 * ERROR)
    net = trained(name)
    for layer in patients.norms(net):
        layer.momentum = momentum
        layer.num_batches_tracked.fill_(batches)
        layer.running_mean.mul_(1 - left)
        layer.running_var.mul_(1 - left).add_(left)
    optimizer = stepped(net) if known else None
    found = found_in(net, name, *([] if known else ["another momentum in training"]), optimizer=optimizer)
    if "another momentum in training" in found:
        evidence = found["another momentum in training"].evidence
        assert evidence["left"] == pytest.approx(left, abs=ERROR)
        assert (1 - evidence["fits"]) ** batches == pytest.approx(evidence["left"])
        assert evidence["expected"] == pytest.approx((1 - momentum) ** batches)
        assert (evidence["momentum"], evidence["batches"]) == (momentum, batches)
    else:
        assert known or left < 0.2


def stepped(net):
    """An optimizer that has trained the network, which then has the momentum that it was trained with."""
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)
    for value in net.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer


@examples(60)
@given(networks, factors)
def test_a_common_factor(name, by):
    net = trained(name)
    for layer in patients.norms(net):
        layer.running_mean *= by
        layer.running_var *= by
    found = found_in(net, name, "common factor", "variance convention")
    if "common factor" in found:
        assert found["common factor"].evidence["factor"] == pytest.approx(by, rel=ERROR)
    else:
        assert abs(math.log(by)) < 0.2
    if "variance convention" in found:  # a small factor looks like that of smaller batches
        assert found["variance convention"].evidence["ratio"] == pytest.approx(by * BATCH / (BATCH - 1), rel=ERROR)
        assert "common factor" not in found


@examples(40)
@given(networks, st.sampled_from([2, 3, 4, 6, 8, 16]), st.integers(1, 20))
def test_the_size_of_batches_whose_variances_torch_corrects(name, size, seed):
    x, y = patients.joined(patients.blobs(seed=seed) if name in VECTORS else training(name))
    batches = [batch for batch in patients.cut(x, y, size) if len(batch[0]) == size]
    found = found_in(patients.run(trained(name), batches, None), name, "variance convention", "tiny batches")
    if "variance convention" in found:
        assert_size(found["variance convention"], size)
    else:  # of images n is the number of positions as well, and n/(n − 1) is nearly 1
        assert size > 4 or name not in VECTORS
    if "tiny batches" in found:
        assert found["tiny batches"].evidence["batch_size"] == found["variance convention"].evidence["batch_size"] <= 4


@examples(15)
@given(networks, st.sampled_from(list(patients.CONVENTIONS)))
def test_what_is_stored_in_place_of_the_variance(name, stored):
    net = trained(name)
    for layer in patients.norms(net):
        layer.running_var.copy_(patients.CONVENTIONS[stored](layer.running_var))
    found = found_in(net, name, "not the variance")
    assert found["not the variance"].evidence == {"stored": stored}


@pytest.mark.parametrize("name", WIDTHS)
def test_a_network_that_is_right(name):
    diagnosis = tn.diagnose(trained(name), held_out(name))
    assert diagnosis.causes == () and diagnosis.healthy

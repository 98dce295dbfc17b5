"""What others get wrong when they measure statistics anew, and the true values here.

The numbers of the tests are those of the list of peers' mistakes (M1 …). Every truth is computed here, in float64.
"""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close

import truenorm as tn

EXACT = {"rtol": 1e-5, "atol": 1e-7}


def precise_bn(net, batches, **named):
    """fvcore's pass (detectron2's hook runs the same)."""
    module = pytest.importorskip("fvcore.nn.precise_bn", reason="fvcore is not installed")
    return module.update_bn_stats(net, batches, num_iters=named.pop("num_iters", len(batches)), **named)


def assert_true(moments, values):
    """Moments are those of these values of shape (N, C, …), all weighing the same."""
    dims = [0, *range(2, values.ndim)]
    var, mean = torch.var_mean(values.double(), dims, correction=0)
    assert_close(moments.mean, mean, **EXACT)
    assert_close(moments.var, var, **EXACT)
    assert moments.count == values.numel() // values.shape[1]


@torch.no_grad()
def inference_truth(net, x):
    """Mean and variance of what reaches each batch norm of a chain whose layers all are right, in float64."""
    found, h = {}, x.double()
    for name, layer in copy.deepcopy(net).double().eval().named_children():
        if isinstance(layer, nn.BatchNorm1d):
            var, mean = torch.var_mean(h, 0, correction=0)
            found[name] = mean, var
            layer.running_mean, layer.running_var = mean, var
        h = layer(h)
    return found


# M1


def test_m1_the_variance_between_batches_is_kept():
    """Batches sorted by class: nearly all of the variance lies between them."""
    x = torch.randn(1000, 3) + 4.0 * torch.arange(10).repeat_interleave(100)[:, None]
    net = nn.Sequential(nn.BatchNorm1d(3))
    for flow in ("joint", "sequential", "eval"):
        assert_true(tn.measure(net, x.split(100), flow=flow)["0"], x)
    update_bn(x.split(100), net)
    assert (net[0].running_var < 0.02 * x.double().var(0, correction=0)).all()


@pytest.mark.parametrize(("size", "most"), [(1, 0.3), (4, 0.9)])
def test_m1_images_need_not_even_be_sorted(size, most):
    """Values of one image resemble each other: small shuffled batches lose what lies between images, too."""
    x = 2 * torch.randn(256, 2, 1, 1) + torch.randn(256, 2, 14, 14)
    net = nn.Sequential(nn.BatchNorm2d(2))
    assert_true(tn.measure(net, x.split(size))["0"], x)
    update_bn(x.split(size), net)
    assert (net[0].running_var < most * x.double().var((0, 2, 3), correction=0)).all()


# M2


def deep(width=64):
    layers = [module for a in (10, width, width) for module in (nn.Linear(a, width), nn.BatchNorm1d(width), nn.ReLU())]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("memory", [2**31, 1], ids=["one giant batch", "rounds"])
def test_m2_deep_layers_get_the_variance_of_the_inference_path(memory):
    """Peers' passes normalise by tiny batches below: they err with depth, in opposite directions."""
    x = torch.randn(512, 10)
    net = deep()
    truth = inference_truth(net, x)
    found = tn.measure(net, x.split(2), flow="sequential", memory=memory)
    for name, (mean, var) in truth.items():
        assert_close(found[name].mean, mean, rtol=1e-4, atol=1e-5)
        assert_close(found[name].var, var, rtol=1e-4, atol=1e-6)
    tn.assign(net, found)
    arriving = tn.measure(net, x.split(64), flow="eval")  # the fixed point: what is stored is what arrives
    assert tn.estimation_shift(tn.statistics(net), arriving).worst.shift < 1e-3


def test_m2_train_mode_passes_miss_it_on_either_side():
    x = torch.randn(2048, 10)
    net = deep()
    truth = inference_truth(net, x)

    def ratios(recalibrate):
        theirs = copy.deepcopy(net).train()
        recalibrate(theirs)
        return [float((theirs.get_submodule(name).running_var / var).mean()) for name, (_, var) in truth.items()]

    first, *others = ratios(lambda theirs: update_bn(x.split(2), theirs))
    assert first == pytest.approx(1, abs=0.05) and min(others) > 1.3
    first, *others = ratios(lambda theirs: precise_bn(theirs, x.split(2)))
    assert first == pytest.approx(1, abs=0.05) and max(others) < 0.8


# M3


def test_m3_a_short_last_batch_weighs_what_it_holds():
    x = torch.cat([torch.zeros(128, 2), torch.full((2, 2), 10.0)]) + 0.1 * torch.randn(130, 2)
    net = nn.Sequential(nn.BatchNorm1d(2))
    for flow in ("joint", "sequential", "eval"):
        assert_true(tn.measure(net, x.split(128), flow=flow)["0"], x)
    update_bn(x.split(128), net)
    assert (net[0].running_mean > 4.5).all() and x.double().mean(0).max() < 0.3
    assert (net[0].running_var < 0.1).all() and x.double().var(0).min() > 1


# M7


def test_m7_dropout_is_off_in_a_pass_as_it_is_in_inference():
    x = torch.randn(2048, 32)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 4), nn.BatchNorm1d(4)).train()
    nn.init.constant_(net[1].weight, 0.2)
    x += 1  # a mean that dropout turns into variance
    truth = net[1].double()(x.double()).detach()
    net[1].float()
    for flow in ("joint", "sequential"):
        found = tn.measure(net, x.split(128), flow=flow)
        assert_true(found["2"], truth)
        assert "off" in found.about["dropout"]
    assert net[0].training
    for recalibrate in (lambda net, batches: update_bn(batches, net), precise_bn):
        theirs = copy.deepcopy(net)
        recalibrate(theirs, x.split(128))
        assert (theirs[2].running_var > 2 * truth.var(0)).all()


# M10


def test_m10_a_mean_far_from_zero_costs_no_digits():
    x = 1000 + 0.1 * torch.randn(20_000, 64)
    net = nn.Sequential(nn.BatchNorm1d(64)).train()
    truth = x.double().var(0, correction=0)
    for flow in ("joint", "eval"):
        assert_close(tn.measure(net, x.split(100), flow=flow)["0"].var, truth, rtol=0.02, atol=0)
    assert_close(tn.measure(net, x.split(100), flow="sequential")["0"].var, truth, rtol=0.02, atol=0)
    precise_bn(net, x.split(100))
    assert int((net[0].running_var < 0).sum()) > 10
    assert not net.eval()(x[:100]).isfinite().all()


# M11


@pytest.mark.parametrize("flow", ["joint", "sequential", "eval"])
def test_m11_a_model_in_evaluation_is_measured_too(flow):
    x = torch.randn(256, 3) + 5
    net = nn.Sequential(nn.BatchNorm1d(3)).eval()
    found = tn.measure(net, x.split(64), flow=flow)
    assert_true(found["0"], x)
    assert not net[0].training
    precise_bn(net, x.split(64))
    assert (net[0].running_mean == 0).all()  # nothing was done, and nothing was said


# M12


class WithAuxiliary(nn.Module):
    """Its second batch norm is not called."""

    def __init__(self):
        super().__init__()
        self.used, self.auxiliary = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        tn.assign(self, {"auxiliary": tn.Moments(torch.full((2,), 3.0), torch.full((2,), 5.0))})

    def forward(self, x):
        return self.used(x)


def test_m12_a_layer_that_no_batch_reaches_is_left_alone_and_named():
    x = torch.randn(256, 2) + 7
    net = WithAuxiliary()
    theirs = copy.deepcopy(net)
    for flow in ("joint", "sequential", "eval"):
        found = tn.measure(net, x.split(64), flow=flow)
        assert list(found) == ["used"] and found.provenance.skipped == ("auxiliary",)
    buffers = {name: id(buffer) for name, buffer in net.named_buffers()}
    done = tn.repair(net, x.split(64), score=lambda y, batch: -y.square().mean(1))
    assert done.chosen and (net.used.running_mean > 6).all()
    assert net.auxiliary.running_mean.tolist() == [3, 3] and net.auxiliary.running_var.tolist() == [5, 5]
    assert {name: id(buffer) for name, buffer in net.named_buffers()} == buffers
    held = theirs.used.running_mean
    precise_bn(theirs, x.split(64))
    assert theirs.auxiliary.running_var.tolist() == [0, 0]
    assert theirs.used.running_mean is not held  # who shares the buffer keeps the old one


# M13


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.bn(self.fc(self.bn(x)))


def test_m13_a_layer_that_is_called_twice_is_pooled_over_its_calls():
    net, batches = CalledTwice(), (torch.randn(3, 64, 4) + 2).unbind()
    double = copy.deepcopy(net).double()
    seen = []
    for x in batches:
        var, mean = torch.var_mean(x.double(), 0, correction=0)
        seen += [x.double(), double.fc((x.double() - mean) / (var + double.bn.eps).sqrt()).detach()]
    found = tn.measure(net, batches)
    assert_true(found["bn"], torch.cat(seen))
    assert found.provenance.repeated == ("bn",)
    with pytest.raises(AssertionError, match="reused"):
        precise_bn(net, batches)


def test_m13_a_short_loader_is_enough():
    net, x = nn.Sequential(nn.BatchNorm1d(3)).train(), torch.randn(96, 3)
    assert_true(tn.measure(net, x.split(32))["0"], x)
    with pytest.raises(AssertionError, match="meant to run for 200 iterations"):
        precise_bn(net, x.split(32), num_iters=200)


# M15


def test_m15_nothing_is_left_of_what_was_stored():
    x = 2 * torch.randn(60 * 64, 3) + 1
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=0.01))
    tn.assign(net, {"0": tn.Moments(torch.full((3,), 4.0), torch.full((3,), 40.0))})
    theirs = copy.deepcopy(net).train()
    done = tn.repair(net, x.split(64), held_out=x.split(64), score=lambda y, batch: -(y.var() - 1).square())
    assert done.chosen
    assert_close(net[0].running_mean.double(), x.double().mean(0), rtol=1e-4, atol=1e-4)
    assert_close(net[0].running_var.double(), x.double().var(0, correction=0), rtol=1e-4, atol=0)
    assert net[0].momentum == 0.01
    for batch in x.split(64):  # what nncf's adaptation does: an average with the layer's own momentum
        theirs(batch)
    assert (theirs[0].running_mean > 2).all() and (theirs[0].running_var > 15).all()

"""Weights that the statistics do not belong to: averaged ones; and statistics that training itself gets wrong."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import truenorm as tn
from truenorm.doctor.remedy import CountOnce, RepairStatistics
from truenorm.errors import InvalidInput, NotMeasurable


def problem(size=1024):
    """Two classes that a line does not part."""
    x = torch.randn(size, 8)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def mlp(*between):
    return nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), *between, nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 2),
    )  # fmt: skip


def batches_of(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def averaged(net, x, y, decay=0.99, lr=0.5):
    """An average of the weights of a noisy training at batch 8, with the buffers that torch copies."""
    optimizer = torch.optim.SGD(net.parameters(), lr)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for _ in range(2):
        order = torch.randperm(len(x))
        for images, labels in batches_of(x[order], y[order], 8):
            loss = F.cross_entropy(net.train()(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(net)
    return ema.eval()


@torch.no_grad()
def inference_truth(net, x):
    """Mean and variance of what reaches each batch norm where all those below are right, in float64."""
    found, h = {}, x.double()
    for name, layer in copy.deepcopy(net).double().eval().named_children():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_var, layer.running_mean = torch.var_mean(h, 0, correction=0)
            found[name] = layer.running_mean, layer.running_var
        h = layer(h)
    return found


def shift(net, truth):
    """How far what is stored is off, in σ: the worst layer's."""
    reference = tn.stats.Statistics({f"module.{name}": tn.Moments(*moments) for name, moments in truth.items()})
    return tn.estimation_shift(tn.statistics(net), reference).worst.shift


# M9


def test_m9_averaged_weights_are_diagnosed_and_get_statistics_of_their_own():
    x, y = problem()
    ema, data = averaged(mlp(), x, y), batches_of(x, y, 64)
    truth = inference_truth(ema.module, x)
    assert shift(ema, truth) > 0.3  # torch copied the buffers of other weights
    found = tn.diagnose(ema, data)
    assert not found.healthy and found.cause == "averaged weights"
    assert found.steps[0].remedy == RepairStatistics()
    done = tn.repair(ema, data, held_out=data)
    assert done.scores[done.chosen]["log likelihood"] > done.scores["as it is"]["log likelihood"] + 0.03
    assert shift(ema, truth) < 0.05
    tn.assign(ema, tn.measure(ema, data, flow="sequential"))
    assert shift(ema, truth) < 1e-4
    tn.assign(ema, done.previous)
    assert shift(ema, truth) > 0.3  # the undo


# M26


def test_m26_averaged_weights_with_dropout_get_the_statistics_of_inference():
    """What lightning's averaging ends with: a pass in train(), dropout on, a short last batch weighing as a full one."""
    x, y = problem(258)
    ema = AveragedModel(mlp(nn.Dropout(0.5))).eval()
    data = batches_of(x, y, 128)
    truth = inference_truth(ema.module, x)
    theirs = copy.deepcopy(ema)
    update_bn(data, theirs)
    assert float((theirs.module[5].running_var / truth["5"][1]).median()) > 1.5
    assert shift(theirs, truth) > 0.3
    tn.assign(ema, tn.measure(ema, data, flow="sequential"))
    assert shift(ema, truth) < 1e-4
    for layer, (_, var) in truth.items():
        assert_close(ema.module.get_submodule(layer).running_var.double(), var, rtol=1e-4, atol=1e-6)


# M29


class Recomputed(nn.Module):
    """Its first batch norm runs again in backward, its second does not."""

    def __init__(self, reentrant, both=False):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.b = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.out = nn.Linear(4, 2)
        self.reentrant, self.both = reentrant, both

    def forward(self, x):
        h = checkpoint(self.a, x, use_reentrant=self.reentrant)
        return self.out(checkpoint(self.b, h, use_reentrant=self.reentrant) if self.both else self.b(h))


either = pytest.mark.parametrize("reentrant", [True, False])


def steps(net, number=1, optimizer=None):
    """Training; the inputs of the first batch norm, step by step."""
    seen = []
    for _ in range(number):
        x = (torch.randn(32, 4) + 3).requires_grad_()
        seen.append(net.a[0](x).detach().double())
        net.train()(x).square().mean().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    return seen


@either
def test_m29_a_recomputed_forward_is_no_second_batch_for_a_watch(reentrant):
    net = Recomputed(reentrant)
    with tn.watch(net) as watched:
        seen = steps(net, 5)
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    twice = mean.clone()
    for values in seen:
        mean, var = 0.9 * mean + 0.1 * values.mean(0), 0.9 * var + 0.1 * values.var(0)
        twice = 0.81 * twice + 0.19 * values.mean(0)
    assert_close(watched["static-0.1"]["a.1"].mean, mean, rtol=1e-4, atol=1e-5)
    assert_close(watched["static-0.1"]["a.1"].var, var, rtol=1e-4, atol=1e-5)
    assert_close(net.a[1].running_mean.double(), twice, rtol=1e-4, atol=1e-5)  # torch, which the watch leaves alone
    assert [int(net.a[1].num_batches_tracked), int(net.b[1].num_batches_tracked)] == [10, 5]


@either
def test_m29_layers_that_were_updated_twice_are_diagnosed(reentrant):
    net = Recomputed(reentrant)
    steps(net, 20)
    found = tn.diagnose(net)
    assert found.cause == "updated twice" and found.findings[0].layers == ("a.1",)
    assert (found.findings[0].evidence["batches"], found.findings[0].evidence["others"]) == (40, 20)
    assert found.steps[0].remedy == CountOnce(layer="a.1")
    net = Recomputed(reentrant, both=True)  # all of them alike: only the optimizer can tell
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    steps(net, 20, optimizer)
    assert tn.diagnose(net).cause is None
    found = tn.diagnose(net, optimizer=optimizer)
    assert found.cause == "updated twice"
    assert (found.findings[0].evidence["batches"], found.findings[0].evidence["steps"]) == (40, 20)


# M30


def test_m30_what_does_not_fit_half_precision_is_refused_or_diagnosed():
    net = nn.Sequential(nn.BatchNorm1d(2))
    large = {"0": tn.Moments(torch.zeros(2), torch.tensor([7e4, 1.0]))}
    tn.assign(net, large)
    net.half()
    assert net[0].running_var.tolist() == [torch.inf, 1]  # torch says nothing
    found = tn.diagnose(net)
    assert not found.healthy and found.cause == "not finite" and found.findings[0].layers == ("0",)
    assert "half precision" in [one.cause for one in found.findings]
    net = nn.Sequential(nn.BatchNorm1d(2)).half()
    with pytest.raises(InvalidInput, match=r"variance given for layer '0' is too large for torch\.float16"):
        tn.assign(net, large)
    assert net[0].running_var.tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own insides
def test_m30_an_average_of_all_batches_compiles_as_one_graph():
    def made(norm):
        torch.compiler.reset()
        net = nn.Sequential(norm(4, momentum=None))
        return net, torch.compile(net, backend="eager", fullgraph=True)

    with pytest.raises(torch._dynamo.exc.UserError, match="data-dependent"):
        made(nn.BatchNorm1d)[1](torch.randn(8, 4))
    net, compiled = made(tn.nn.BatchNorm1d)
    x = torch.randn(48, 4) + 3
    for batch in x.split(16):
        compiled(batch)
    assert_close(net[0].running_mean.double(), x.double().mean(0), rtol=1e-5, atol=1e-6)
    assert_close(net[0].running_var.double(), x.double().var(0, correction=0), rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.bn(x + 10) + self.bn(x)


def test_m30_a_layer_called_twice_is_named_and_pooled():
    net, x = CalledTwice(), torch.randn(256, 3)
    net(x)
    # torch: 9 % of the first call's mean and 10 % of the second's.
    theirs = 0.09 * (x + 10).double().mean(0) + 0.1 * x.double().mean(0)
    assert_close(net.bn.running_mean.double(), theirs, rtol=1e-5, atol=1e-5)
    batches = x.split(64)
    found = tn.measure(net, batches)
    assert found.provenance.repeated == ("bn",)
    both = torch.cat([x + 10, x]).double()
    assert_close(found["bn"].mean, both.mean(0), rtol=1e-5, atol=1e-5)
    assert_close(found["bn"].var, both.var(0, correction=0), rtol=1e-5, atol=1e-5)
    with pytest.raises(NotMeasurable, match="'bn' is called more than once per forward: it sees several populations"):
        tn.measure(net, batches, flow="sequential")
    for _ in range(100):
        net(x)
    told = tn.diagnose(net, batches, score=lambda output, batch: -output.mean().square())
    assert "called several times" in [one.cause for one in told.findings]


def test_m30_another_eps_than_in_training_is_diagnosed():
    """A state dict does not hold it: every key fits."""
    x, y = problem()
    x = 0.05 * x

    def made(eps):
        net = mlp()
        for layer in (net[1], net[4]):
            layer.eps = eps
        return net

    net = made(1e-3)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for epoch in range(15):
        optimizer.param_groups[0]["lr"] = 1e-2 if epoch < 10 else 1e-4
        for images, labels in batches_of(x, y, 64):
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    other = made(1e-5)
    other.load_state_dict(net.state_dict())
    data = batches_of(x, y, 64)
    found = tn.diagnose(other, data)
    assert found.cause == "eps" and found.findings[0].evidence["eps"] == 1e-3
    assert tn.diagnose(net, data).cause != "eps"

"""Passes: the variance within batches, a tolerance that ends them early, forwards that run to their end."""

import contextlib
import copy
import math
import threading
from functools import partial

import nets
import numpy as np
import oracle
import pytest
import torch
from nets import assert_same_bits, bits, identities, num_hooks
from torch import nn

import truenorm as tn
from truenorm.errors import InvalidInput, NotMeasurable, UnknownName
from truenorm.model.measure import joint_estimates

close = partial(torch.testing.assert_close, check_dtype=False)
FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}


def images(num=9, size=16, last=5):
    return [x for x, _ in nets.batches(num, size, last=last)]


def trained():
    net = nets.plain()
    nets.train(net, nets.batches(20))
    return net


# The variance within batches


def within(stream):
    """The mean of the batches' biased variances, each value weighing the same."""
    total = sum(n for _, _, n in stream)
    return sum(n * v for _, v, n in stream) / total, total


def seen_by(net, flow, data, name):
    """What reaches a layer in a pass: each batch's values."""
    net, seen = copy.deepcopy(net).train(flow == "joint"), []
    net.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().numpy().copy()))
    with torch.no_grad():
        for x in data:
            net(x)
    return oracle.stream_of(seen)


@pytest.mark.parametrize("flow", ["joint", "eval"])
@pytest.mark.parametrize("size", [2, 16])
@pytest.mark.parametrize("double", [True, False])
def test_the_variance_within_is_the_mean_of_the_batches_biased_variances(flow, size, double):
    net, data = trained(), images(size=size)
    if double:
        net, data = net.double(), [x.double() for x in data]
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if double else FLOAT32
    found, pooled = (tn.measure(net, data, flow=flow, variance=how) for how in ("within", "pooled"))
    assert list(found) == ["bn1", "bn2"]
    assert found.provenance.variance == "within" and pooled.provenance.variance == "pooled"
    for name, moments in found.items():
        stream = seen_by(net, flow, data, name)
        var, count = within(stream)
        close(moments.var, torch.tensor(var), **tolerance)
        close(moments.mean, torch.tensor(oracle.population(stream)[0]), **tolerance)
        assert moments.count == count
        assert moments.design_effect == pooled[name].design_effect
        if name == "bn1":  # the batches' level moves: that is what is left out
            assert bool((moments.var < 0.98 * pooled[name].var).all())


def test_both_estimates_come_of_one_pass_to_the_same_bits():
    net, data = trained(), images(size=4)
    passes, state = [], bits(net)
    pooled, inside = joint_estimates(net, (passes.append(1) or x for x in data))
    assert len(passes) == len(data)
    assert pooled == tn.measure(net, data) and inside == tn.measure(net, data, variance="within")
    assert pooled != inside and inside.provenance.variance == "within"
    assert_same_bits(net.state_dict(), state)


def test_an_unknown_variance():
    with pytest.raises(UnknownName, match="unknown variance 'wihtin'; did you mean 'within'"):
        tn.measure(trained(), images(), variance="wihtin")


def test_the_sequential_flow_has_no_variance_within():
    with pytest.raises(InvalidInput, match="variance"):
        tn.measure(trained(), images(), flow="sequential", variance="within", memory=1)


# The tolerance


def standard_error(stream):
    """Of the mean, in σ: rms over channels, by the batches' means as they scatter; batches of one size."""
    total = sum(n for _, _, n in stream)
    return math.sqrt(oracle.design_effect(stream) / total)


def shuffled(num=400, size=16, *, copies=1):
    """Independent batches of a population, whose values come in equal groups."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(num * size // copies, 4, generator=generator) * torch.tensor([1.0, 2.0, 0.5, 3.0]) + 4
    return list(x.repeat_interleave(copies, 0).split(size))


@pytest.mark.parametrize("flow", ["joint", "eval"])
@pytest.mark.parametrize("tolerance", [0.1, 0.03])
@pytest.mark.parametrize("copies", [1, 4])
def test_a_pass_ends_when_the_standard_error_is_below_the_tolerance(flow, tolerance, copies):
    net, data = trained(), shuffled(copies=copies)
    found = tn.measure(net, data, flow=flow, tolerance=tolerance)
    used = found.provenance.samples // 16
    assert used % 8 == 0 and used < len(data)
    streams = {name: seen_by(net, flow, data, name) for name in found}

    worst = max(standard_error(stream[:used]) for stream in streams.values())
    assert worst <= tolerance
    close(found.provenance.standard_error, worst, rtol=0.05, atol=0)
    # At the looks before it was not known well enough.
    for number in range(8, used, 8):
        assert max(standard_error(stream[:number]) for stream in streams.values()) > tolerance

    for name, stream in streams.items():
        mean, var, _ = oracle.population(stream)
        rms = float(np.sqrt(np.mean((found[name].mean.numpy() - mean) ** 2 / var)))
        assert rms < 5 * tolerance
        close(found[name].mean, torch.tensor(oracle.population(stream[:used])[0]), **FLOAT32)


def test_values_that_resemble_each_other_need_more_samples():
    used = {}
    for copies in (1, 4):
        found = tn.measure(trained(), shuffled(copies=copies), tolerance=0.03)
        used[copies] = found.provenance.samples
    assert 2 < used[4] / used[1] < 8


def test_a_tolerance_that_is_not_reached_reads_everything():
    net, data = trained(), shuffled(20)
    found = tn.measure(net, data, tolerance=1e-6)
    assert found == tn.measure(net, data)
    assert 1e-3 < found.provenance.standard_error < 1
    assert tn.measure(net, data).provenance.standard_error is None


def test_nothing_is_read_beyond_what_is_enough_and_the_limit_holds_too():
    net, data = trained(), shuffled()
    read = []
    found = tn.measure(net, (read.append(1) or x for x in data), tolerance=0.1)
    assert 16 * len(read) == found.provenance.samples
    assert found == tn.measure(net, data[: len(read)])
    assert tn.measure(net, data, tolerance=1e-6, limit=100).provenance.samples == 112
    assert tn.measure(net, data, tolerance=0.1, limit=10**6).provenance.samples == 16 * len(read)


def test_both_estimates_end_at_the_tolerance():
    net, data = trained(), shuffled()
    pooled, inside = joint_estimates(net, iter(data), tolerance=0.05)
    assert pooled == tn.measure(net, data, tolerance=0.05)
    assert inside == tn.measure(net, data, tolerance=0.05, variance="within")
    assert pooled.provenance.samples == inside.provenance.samples
    assert pooled.provenance.standard_error == inside.provenance.standard_error


@pytest.mark.parametrize("flow", ["joint", "eval"])
def test_a_pass_that_ends_early_leaves_the_model_as_it_was(flow):
    net = trained().train()
    before, things, hooks = bits(net), identities(net), num_hooks(net)
    tn.measure(net, shuffled(), flow=flow, tolerance=0.1)
    assert_same_bits(net.state_dict(), before)
    assert identities(net) == things and num_hooks(net) == hooks


@pytest.mark.parametrize(
    ("flow", "tolerance", "said"),
    [
        ("joint", 0.0, "tolerance is 0 in the flow 'joint'"),
        ("joint", -0.1, "tolerance is -0.1 in the flow 'joint'"),
        ("eval", math.nan, "tolerance is nan in the flow 'eval'"),
        ("sequential", 0.1, "tolerance is 0.1 in the flow 'sequential'"),
    ],
)
def test_what_is_no_tolerance_is_refused(flow, tolerance, said):
    with pytest.raises(InvalidInput, match=f"{said}; expected a positive number of σ, and joint or eval"):
        tn.measure(trained(), images(), flow=flow, tolerance=tolerance)


def test_no_layer_is_reached_and_there_is_a_tolerance():
    with pytest.raises(NotMeasurable, match="no batch-norm layer was reached by any batch"):
        tn.measure(trained(), images(), forward=lambda model, batch: batch, tolerance=0.1)


def test_one_batch_tells_no_standard_error():
    found = tn.measure(trained(), images(1), tolerance=0.01)
    assert found.provenance.standard_error > 0


def test_a_layer_that_is_seldom_reached_is_waited_for():
    class Seldom(nn.Module):
        def __init__(self):
            super().__init__()
            self.often, self.seldom, self.calls = nn.BatchNorm1d(4), nn.BatchNorm1d(4), 0

        def forward(self, x):
            self.calls += 1
            return self.seldom(self.often(x) + x) if self.calls % 8 == 0 else self.often(x)

    found = tn.measure(Seldom(), shuffled(), tolerance=0.1)
    assert found["seldom"].count > 16


# The end of a forward


class Locked(nn.Module):
    """A model with a state of its own round its forward, which an end in the middle would leave behind."""

    def __init__(self, net):
        super().__init__()
        self.net, self.lock, self.begun, self.ended = net, threading.Lock(), 0, 0

    def forward(self, x):
        assert self.lock.acquire(blocking=False)
        self.begun += 1
        y = self.net(x)
        self.ended += 1
        self.lock.release()
        return y

    def __deepcopy__(self, memo):
        raise TypeError("a lock has no copy")


@pytest.mark.parametrize("look", ["joint", "eval", "sequential", "rounds", "within", "repair", "diagnose"])
@pytest.mark.parametrize("make", [trained, nets.Twice, nets.OutOfStep])
def test_every_forward_runs_to_its_end(look, make):
    net, data = Locked(make()), images()
    looks = {
        "rounds": lambda: tn.measure(net, data, flow="sequential", memory=1),
        "within": lambda: tn.measure(net, data, variance="within"),
        "repair": lambda: tn.repair(net, data, score=lambda y, x: -y.square().mean(1)),
        "diagnose": lambda: tn.diagnose(net, data, score=lambda y, x: -y.square().mean(1)),
    }
    with contextlib.suppress(NotMeasurable):  # a layer that is called twice has no sequential statistics
        looks.get(look, lambda: tn.measure(net, data, flow=look))()
    assert net.begun == net.ended > 0
    assert not net.lock.locked()


@pytest.mark.parametrize("flow", ["joint", "eval"])
def test_what_the_users_hooks_make_of_the_last_layers_input_is_measured(flow):
    net, data, sizes = trained(), images(), []
    plain = tn.measure(net, data, flow=flow)

    def thrice(module, inputs):
        sizes.append(len(inputs[0]))
        return (3 * inputs[0],)

    net.bn2.register_forward_pre_hook(thrice)
    found = tn.measure(net, data, flow=flow)
    assert sizes == [len(x) for x in data]
    close(found["bn2"].mean, 3 * plain["bn2"].mean, **FLOAT32)
    close(found["bn2"].var, 9 * plain["bn2"].var, **FLOAT32)


def test_a_watched_run_does_not_notice():
    nets_, watches = [nets.plain(), nets.plain()], []
    nets_[1].load_state_dict(nets_[0].state_dict())
    for net, measured in zip(nets_, (False, True), strict=True):
        with tn.watch(net) as watched:
            nets.train(net, nets.batches(6))
            if measured:
                tn.measure(net, images())
                tn.measure(net, images(), flow="eval", tolerance=1e-6)
            nets.train(net, nets.batches(6, seed=2))
        watches.append(watched)
    assert_same_bits(nets_[1].state_dict(), nets_[0].state_dict())
    assert all(watches[0][name] == watches[1][name] for name in watches[0])


def test_an_error_in_a_forward_is_the_models_own():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = trained()

        def forward(self, x):
            self.net(x)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        tn.measure(Failing(), images())


class Redrawn:
    """A loader whose batches are made anew each time."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        return iter(self.draw().split(16))


def test_rounds_tell_whether_the_images_were_the_same_each_time():
    net, x = trained(), torch.cat(images())
    seen = {
        what: tn.measure(net, Redrawn(draw), flow="sequential", memory=1)
        for what, draw in {
            "same": lambda: x,
            "shuffled": lambda: x[torch.randperm(len(x))],
            "augmented": lambda: x + torch.randn_like(x),
        }.items()
    }
    differences = {what: statistics.provenance.passes_differ for what, statistics in seen.items()}
    assert differences == {"same": None, "shuffled": "order", "augmented": "images"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flow", ["joint", "eval", "sequential"])
def test_half_models_are_measured_in_full_precision(dtype, flow):
    """A variance beyond the largest half, and means that bfloat16 would round to two digits."""
    net = nn.Sequential(nn.BatchNorm1d(3)).to(dtype)
    batches = [(500 * torch.randn(64, 3) + 1234).to(dtype) for _ in range(4)]
    values = torch.cat(batches).double()
    found = tn.measure(net, batches, flow=flow)["0"]
    close(found.mean, values.mean(0), rtol=1e-5, atol=0)
    close(found.var, values.var(0, correction=0), rtol=1e-5, atol=0)


def test_modes_of_every_wrapper_come_back():
    inner = nn.DataParallel(trained().train())
    outer = nn.DataParallel(inner).train()
    tn.measure(outer, images())
    assert outer.training and inner.training and inner.module.training

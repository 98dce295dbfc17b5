"""What layers of any make depend on, found out by calling them; and that a layer which fails is left as it was."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from nets import OwnBatchNorm
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.model.layers import like_batch_norm
from truenorm.model.probe import Behaviour, behaviour_of, takes_its_batch
from truenorm.model.stored import Stored

CHANNELS = 3


def ready(layer, shape=(16, CHANNELS, 4, 4)):
    """A layer whose statistics are those of some data, and an input."""
    x = 2 * torch.randn(shape) + 1
    with torch.no_grad():
        for name, buffer in layer.named_buffers():
            if "var" in name or "std" in name:
                buffer.uniform_(1.0, 3.0)
            elif "mean" in name or "avg" in name:
                buffer.uniform_(-1.0, 1.0)
    return layer, x


class Frozen(nn.Module):
    """As detectors have it: buffers alone, no modes."""

    def __init__(self):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((CHANNELS,), value))

    def forward(self, x):
        scale = (self.weight / (self.running_var + 1e-5).sqrt()).reshape(1, -1, 1, 1)
        return x * scale + self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale


class ByBatch(OwnBatchNorm):
    """It takes its batch in any mode."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.1, 1e-5)


class MeanSquare(nn.Module):
    """Divides by the root of a mean square, and subtracts nothing."""

    def __init__(self, name="running_var", about_mean=False):
        super().__init__()
        self.name, self.about_mean = name, about_mean
        self.register_buffer(name, torch.ones(CHANNELS))

    def forward(self, x):
        if self.training:
            over = x.detach()
            new = over.var((0, 2, 3)) if self.about_mean else over.square().mean((0, 2, 3))
            getattr(self, self.name).lerp_(new, 0.1)
        return x / (getattr(self, self.name).reshape(1, -1, 1, 1) + 1e-5).sqrt()


class Deviations(nn.Module):
    """Stores standard deviations, in buffers of another form if that is asked for."""

    def __init__(self, form=(CHANNELS,)):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(form))
        self.register_buffer("running_std", torch.ones(form))

    def forward(self, x):
        mean, std = (buffer.reshape(1, -1, 1, 1) for buffer in (self.running_mean, self.running_std))
        if self.training:
            mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
            with torch.no_grad():
                self.running_mean.lerp_(mean.reshape(self.running_mean.shape), 0.1)
                self.running_std.lerp_(std.reshape(self.running_std.shape), 0.1)
        return (x - mean) / (std + 1e-5)


class Renorm(OwnBatchNorm):
    """Batch renormalisation: the batch's moments, corrected by those that are stored."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        var, mean = torch.var_mean(x, (0, 2, 3))
        std, stored = (var + 1e-5).sqrt(), (self.running_var + 1e-5).sqrt()
        r, d = (std / stored).clamp(1 / 3, 3).detach(), ((mean - self.running_mean) / stored).clamp(-5, 5).detach()
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var, 0.1)
        shape = (1, -1, 1, 1)
        return (x - mean.reshape(shape)) / std.reshape(shape) * r.reshape(shape) + d.reshape(shape)


class ChannelsLast(OwnBatchNorm):
    def forward(self, x):
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class Activated(OwnBatchNorm):
    def forward(self, x):
        return F.relu(super().forward(x))


class InATuple(OwnBatchNorm):
    def forward(self, x):
        return super().forward(x), None


class Conditional(OwnBatchNorm):
    """γ comes of a second tensor."""

    def forward(self, x, condition):
        return super().forward(x) * (1 + condition[:, :, None, None])


class Raises(OwnBatchNorm):
    """Writes what it stores, and then fails; by an error or by Ctrl-C."""

    def __init__(self, channels=CHANNELS, error=RuntimeError, after=0):
        super().__init__(channels)
        self.register_buffer("seen", torch.zeros(()))
        self.error, self.left = error, [after]  # in a list, which copies share with nobody

    def forward(self, x):
        self.seen += 1
        self.running_mean.add_(100)
        self.running_var.mul_(7)
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.error("within the forward")
        self.running_mean.sub_(100)
        self.running_var.div_(7)
        return super().forward(x)


class Inherited(nn.BatchNorm2d):
    """A subclass of torch's with a forward of its own, that only calls torch's."""

    def forward(self, x):
        return super().forward(x)


AS_TORCH = Behaviour()
FROZEN = Behaviour(trains=False)
CASES = {
    "torch": (nn.BatchNorm2d(CHANNELS), AS_TORCH),
    "a subclass": (Inherited(CHANNELS), AS_TORCH),
    "own class": (OwnBatchNorm(CHANNELS), AS_TORCH),
    "with an activation": (Activated(CHANNELS), AS_TORCH),
    "in a tuple": (InATuple(CHANNELS), AS_TORCH),
    "batch renorm": (Renorm(CHANNELS), AS_TORCH),
    "standard deviations": (Deviations(), AS_TORCH),
    "buffers of (1, C, 1, 1)": (Deviations((1, CHANNELS, 1, 1)), AS_TORCH),
    "frozen by class": (Frozen(), FROZEN),
    "always by the batch": (
        ByBatch(CHANNELS),
        Behaviour(by_batch=True, uses_mean=False, uses_spread=False, normalises=False),
    ),
    "a variance alone": (MeanSquare(about_mean=True), Behaviour(uses_mean=False)),
    "a mean square": (MeanSquare(), Behaviour(uses_mean=False, mean_square=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_behaviour(name):
    layer, x = ready(CASES[name][0])
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    for mode in (True, False):
        assert behaviour_of(layer.train(mode), (x,), {}) == CASES[name][1]
        assert layer.training is mode
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert behaviour_of(layer, (), {"x": x} if name != "torch" else {"input": x}) in (CASES[name][1], None)


def test_channels_last():
    layer, x = ready(ChannelsLast(CHANNELS), (16, 5, 4, CHANNELS))
    assert behaviour_of(layer, (x,), {}) == AS_TORCH


def test_a_second_tensor():
    layer, x = ready(Conditional(CHANNELS))
    condition = torch.rand(16, CHANNELS)
    assert behaviour_of(layer, (x, condition), {}) == AS_TORCH
    assert behaviour_of(layer, (x,), {"condition": condition}) == AS_TORCH
    assert behaviour_of(layer, (), {"x": x, "condition": condition}) == AS_TORCH


@pytest.mark.filterwarnings("ignore:.*quantize.*deprecated")
def test_quantised():
    nnq = pytest.importorskip("torch.ao.nn.quantized")
    layer, x = ready(nnq.BatchNorm2d(CHANNELS))
    layer.scale, layer.zero_point = torch.tensor(0.05), torch.tensor(64)
    found = behaviour_of(layer.eval(), (torch.quantize_per_tensor(x, 0.05, 64, torch.quint8),), {})
    assert found is not None and found.fixed and found.uses_both and not found.by_batch


def test_one_that_raises_is_not_understood_and_keeps_its_buffers():
    layer, x = ready(Raises())
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert behaviour_of(layer, (x,), {}) is None
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_outputs_with_other_rows_prove_nothing():
    """A made-up matrix is broadcast to four dimensions, the first of them of size 1."""
    layer, _ = ready(Frozen())
    assert behaviour_of(layer, (torch.randn(8, CHANNELS),), {}) is None
    assert not takes_its_batch(layer)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(CHANNELS), False),
        (OwnBatchNorm(CHANNELS), False),
        (Frozen(), False),
        (Raises(), False),
        (Conditional(CHANNELS), False),
        (MeanSquare(), False),
        (ByBatch(CHANNELS), True),
        (nn.BatchNorm3d(CHANNELS, track_running_stats=False), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_takes_its_batch(layer, expected):
    state = torch.get_rng_state()
    assert takes_its_batch(layer) is expected
    assert torch.equal(torch.get_rng_state(), state)


# Names


def holding(**buffers):
    layer = nn.Module()
    for name, value in buffers.items():
        layer.register_buffer(name, value)
    return layer


C = torch.ones(CHANNELS)


@pytest.mark.parametrize(
    ("buffers", "mean", "spread", "deviation"),
    [
        ({"running_mean": C, "running_var": C}, "running_mean", "running_var", False),
        ({"moving_mean": C, "moving_variance": C}, "moving_mean", "moving_variance", False),
        ({"running_avg": C, "running_std": C}, "running_avg", "running_std", True),
        ({"ema_mean": C[None, :, None, None], "ema_sigma": C[None, :, None, None]}, "ema_mean", "ema_sigma", True),
        ({"running_var": C}, None, "running_var", False),
    ],
)
def test_names_of_statistics(buffers, mean, spread, deviation):
    found = Stored.of(holding(**buffers))
    assert (found.mean, found.spread, found.deviation, found.num_channels) == (mean, spread, deviation, CHANNELS)


@pytest.mark.parametrize(
    "buffers",
    [
        {"min_val": C, "max_val": C, "scale": C, "zero_point": C.int()},
        {"codebook": torch.ones(8, 4), "cluster_size": torch.ones(8), "embed_avg": torch.ones(8, 4)},
        {"pixel_mean": C[:, None, None], "pixel_std": C[:, None, None]},
        {"mean": C, "std": C},
        {"class_weights": C},
        {"running_mean": C},
        {"running_var": torch.tensor(1.0)},
        {"running_var": torch.ones(CHANNELS, CHANNELS)},
        {"running_mean": C, "running_var_0": C, "running_var_1": C},
    ],
    ids=lambda buffers: "-".join(buffers),
)
def test_other_buffers_are_no_statistics(buffers):
    assert Stored.of(holding(**buffers)) is None


def test_complex_statistics_are_left_alone_and_named():
    net = nn.Sequential(holding(running_mean=C.to(torch.complex64), running_var=C.to(torch.complex64)))
    assert Stored.of(net[0]) is None and like_batch_norm(net) == ["0"]
    with pytest.raises(tn.errors.InvalidInput, match="no batch-norm layer"):
        tn.statistics(net)
    with pytest.raises(tn.errors.InvalidInput, match="layer 0 may be one of another make"):
        tn.diagnose(net)


# Interrupted


class Interrupting(nn.Module):
    """Fails when it has been called so many times, copies included; it writes a buffer before."""

    seen = 0

    def __init__(self, error, at):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.error, self.at = error, at

    def forward(self, x):
        self.calls += 1
        Interrupting.seen += 1
        if Interrupting.seen >= self.at:
            raise self.error("within the forward")
        return x


def network(*more):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.ReLU(), OwnBatchNorm(CHANNELS), Frozen(),
        nn.Dropout(0.1), *more, nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip
    net(torch.randn(8, 2, 6, 6))
    net[1].weight.requires_grad_(False)
    net[2].eval()
    return net.train() if not more else net


def batches():
    return [(torch.randn(8, 2, 6, 6), torch.randint(0, 4, (8,))) for _ in range(6)]


def left(net):
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return (
        {name: (id(value), value.requires_grad, value.detach().clone().tolist()) for name, value in tensors.items()},
        {
            name: (module.training, [len(v) for k, v in vars(module).items() if k.endswith("_hooks")], "train" in vars(module))
            for name, module in net.named_modules()
        },
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )  # fmt: skip


CALLS = {
    "diagnose": lambda net, data, **given: tn.diagnose(net, data, **given),
    "repair": lambda net, data, **given: tn.repair(net, data, **given),
    "joint": lambda net, data, **given: tn.measure(net, data),
    "sequential": lambda net, data, **given: tn.measure(net, data, flow="sequential", memory=1),
    "eval": lambda net, data, **given: tn.measure(net, data, flow="eval"),
}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_forward_that_is_interrupted_leaves_everything_as_it_was(call, error, at):
    Interrupting.seen = 0
    net = network(Interrupting(error, 10**9))
    net[6].at, Interrupting.seen = at, 0
    data, before = batches(), left(net)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            CALLS[call](net, data)
    else:
        with suppress(ValueError):  # of a small part of a batch an error may be an answer: it takes no such batches
            CALLS[call](net, data)
    assert Interrupting.seen >= at
    assert left(net) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", ["diagnose", "repair"])
def test_so_does_a_score(call, error):
    net, data, calls = network(), batches(), []

    def score(output, batch):
        calls.append(1)
        if len(calls) > 2:
            raise error("in the score")
        return -output.abs().mean(1)

    before = left(net)
    with pytest.raises((tn.errors.InvalidInput, KeyboardInterrupt), match="in the score"):
        CALLS[call](net, data, score=score)
    assert left(net) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_so_does_a_probed_layer_that_writes_its_buffers_and_then_fails(call, error, after):
    net = network()
    net[3] = Raises(error=error, after=after)
    net[3].running_mean.fill_(0.25)
    data, before = batches(), left(net)
    with pytest.raises((ValueError, KeyboardInterrupt), match="within the forward"):
        CALLS[call](net, data)
    assert left(net) == before

"""Networks, batches and a training loop for the tests of the watch and of passes."""

import copy

import torch
from torch import nn
from torch.nn import functional as F


def plain(momentum=0.1, width=6):
    """fc1 → bn1 → ReLU → fc2 → bn2 → fc3: `oracle.TwoLayers` knows its flows."""
    net = nn.Sequential()
    net.add_module("fc1", nn.Linear(4, width))
    net.add_module("bn1", nn.BatchNorm1d(width, momentum=momentum))
    net.add_module("relu", nn.ReLU())
    net.add_module("fc2", nn.Linear(width, 5))
    net.add_module("bn2", nn.BatchNorm1d(5, momentum=momentum))
    net.add_module("fc3", nn.Linear(5, 3))
    for bn in (net.bn1, net.bn2):
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    return net


def cnn(momentum=0.1, norm=nn.BatchNorm2d):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norm(4, momentum=momentum), nn.ReLU(),
        nn.Conv2d(4, 6, 3), norm(6, momentum=momentum), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def volume(momentum=0.1):
    return nn.Sequential(
        nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3, momentum=momentum), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 3),
    )  # fmt: skip


class OwnBatchNorm(nn.Module):
    """A module of unknown make: batch norm with its own buffers, how it updates them is `update`'s."""

    def __init__(self, channels, momentum=0.1):
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, 1e-5
        )


class HardCoded(OwnBatchNorm):
    """It has an attribute `momentum` that it does not read."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.3, 1e-5)


class WithoutMomentum(HardCoded):
    """It has no attribute `momentum` at all."""

    def __init__(self, channels, momentum=0.1):
        super().__init__(channels)
        del self.momentum


def manual(x, dims):
    var, mean = torch.var_mean(x, dims, correction=0)
    unbiased = var * (x.numel() / x.shape[1]) / (x.numel() / x.shape[1] - 1)
    return mean, var, unbiased


def normalised(x, mean, var, weight, bias):
    shape = [1, -1] + [1] * (x.ndim - 2)
    y = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + 1e-5)
    return y * weight.view(shape) + bias.view(shape)


class Rebinding(nn.BatchNorm2d):
    """The batch norm by hand of the forums: a subclass that gives its buffers new tensors."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        mean, var, unbiased = manual(x, dims)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean = self.momentum * mean + (1 - self.momentum) * self.running_mean
            self.running_var = self.momentum * unbiased + (1 - self.momentum) * self.running_var
        return normalised(x, mean, var, self.weight, self.bias)


class Rebinding1d(Rebinding):
    def _check_input_dim(self, input):
        pass


class KeepMomentum(OwnBatchNorm):
    """Keras's convention: `momentum` is the weight of what is kept."""

    def __init__(self, channels, momentum=0.1):
        super().__init__(channels, 1 - momentum)

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 1 - self.momentum, 1e-5
        )


class BiasedByHand(OwnBatchNorm):
    """Tracks the biased variance, in place: no torch rule gives its buffers."""

    def forward(self, x):
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, 1e-5)
        mean, var, _ = manual(x, [0, *range(2, x.ndim)])
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return normalised(x, mean, var, self.weight, self.bias)


class Frozen(OwnBatchNorm):
    """Buffers of these names, but no batch norm: nothing is ever normalised by a batch."""

    def forward(self, x):
        return normalised(x, self.running_mean, self.running_var, self.weight, self.bias)


class Custom(nn.Module):
    """A network around a layer of another make."""

    def __init__(self, kind, momentum=0.1):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.own = kind(6, momentum=momentum)
        self.bn = nn.BatchNorm1d(6, momentum=momentum)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.bn(torch.relu(self.own(self.fc(x)))))


class Twice(nn.Module):
    """One batch norm, called twice per forward with different inputs."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6, momentum=momentum)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.bn(self.b(torch.relu(self.bn(self.a(x))))))


class OutOfStep(nn.Module):
    """Its second batch norm is called in every other step only, its third never."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.bn = nn.BatchNorm1d(6, momentum=momentum)
        self.other = nn.BatchNorm1d(6, momentum=momentum)
        self.never = nn.BatchNorm1d(6, momentum=momentum)
        self.last = nn.BatchNorm1d(6, momentum=momentum)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        h = torch.relu(self.bn(self.a(x)))
        if self.calls % 2:
            h = self.other(self.b(h))
        return self.out(self.last(h))


def batches(num=9, size=8, shape=(4,), last=5, seed=1, dtype=torch.float32, step=0.3):
    """Images and labels; the last batch is short, and the distribution moves."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for t in range(num):
        n = last if t == num - 1 else size
        images = torch.randn(n, *shape, generator=generator) * (1 + 0.1 * t) + step * t
        found.append((images.to(dtype), torch.randint(0, 3, (n,), generator=generator)))
    return found


def train(model, data, *, lr=0.05, optimizer=None, between=None):
    """Plain SGD with momentum, over the data once. `between(step)` runs after each step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    model.train()
    for step, (images, labels) in enumerate(data):
        loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if between is not None:
            between(step)
    return optimizer


def with_momentum(model, momentum):
    """A copy whose batch norms have this momentum."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
    return copied


def bits(model):
    """A copy of everything in the state dict."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_bits(found, expected):
    """Two state dicts, to the bit."""
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def assert_same_training(watched, unwatched, *, rtol=1e-5, atol=1e-6):
    """Weights and counts to the bit, running statistics to float32 rounding."""
    theirs = unwatched.state_dict()
    ours = watched.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(
                ours[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
            )
        else:
            assert torch.equal(ours[key], value), key


def num_hooks(model):
    """Forward hooks of the whole network."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def identities(model):
    """Which tensors the buffers are, and which modes and momenta the modules have."""
    return (
        {name: id(buffer) for name, buffer in model.named_buffers()},
        {name: (module.training, getattr(module, "momentum", None)) for name, module in model.named_modules()},
    )


class Renorm(nn.BatchNorm2d):
    """Batch renorm: its training forward reads the running statistics."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        mean, var, unbiased = manual(x, [0, *range(2, x.ndim)])
        r = ((var + 1e-5).sqrt().detach() / (self.running_var + 1e-5).sqrt()).clamp(1 / 3, 3)
        d = ((mean.detach() - self.running_mean) / (self.running_var + 1e-5).sqrt()).clamp(-5, 5)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        y = normalised(x, mean, var, torch.ones_like(mean), torch.zeros_like(mean))
        return (y * r + d) * self.weight + self.bias

    def _check_input_dim(self, input):
        pass


class InPlace(OwnBatchNorm):
    """It overwrites its input, as memory-saving ones do."""

    def forward(self, x):
        y = F.batch_norm(
            x.clone(), self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, 1e-5
        )
        with torch.no_grad():
            x.data.zero_()
        return y


class Split(nn.BatchNorm1d):
    """As timm's SplitBatchNorm: the halves of a batch go through norms of their own, one of which holds the other."""

    def __init__(self, channels, momentum=0.1):
        super().__init__(channels, momentum=momentum)
        self.auxiliary = nn.BatchNorm1d(channels, momentum=momentum)

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        half = len(x) // 2
        return torch.cat([super().forward(x[:half]), self.auxiliary(x[half:])])


class Nested(nn.Module):
    def __init__(self, momentum=0.1):
        super().__init__()
        self.fc, self.split, self.out = nn.Linear(4, 6), Split(6, momentum), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.split(self.fc(x)))


class OwnLast(nn.Module):
    """torch's batch norm three times per forward, then one of another make."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.bn = nn.BatchNorm1d(6, momentum=momentum)
        self.own = OwnBatchNorm(6, momentum)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        h = self.fc(x)
        for _ in range(3):
            h = torch.relu(self.bn(h)) + 0.5 * h
        return self.out(self.own(h))

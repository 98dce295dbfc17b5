"""Networks small enough to see through, what they classify, and what is left in them."""

import copy
import random
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import truenorm as tn

CLASSES = 3


def blobs(num=40, size=32, seed=1, noise=1.0):
    """Batches of three blobs in four dimensions, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(num):
        y = torch.randint(0, CLASSES, (size,), generator=generator)
        x = noise * torch.randn(size, 4, generator=generator) + 3 + 2 * F.one_hot(y, 4)
        found.append((x, y))
    return found


def joined(batches):
    """All as one batch."""
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def cut(x, y, size=32):
    return list(zip(x.split(size), y.split(size), strict=True))


@cache
def _digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return ((images - images.mean()) / images.std())[order], torch.tensor(found.target)[order]


def digits(num=20, size=32, start=0):
    """Batches of scikit-learn's digits, standardised, shuffled."""
    images, labels = (part[start * size : (start + num) * size] for part in _digits())
    return cut(images, labels, size)


def mlp(norm=nn.BatchNorm1d, dropout=0.0, bias=False):
    layers = OrderedDict(fc1=nn.Linear(4, 8, bias=bias), bn1=norm(8), relu1=nn.ReLU())
    if dropout:
        layers["drop"] = nn.Dropout(dropout)
    layers |= OrderedDict(fc2=nn.Linear(8, 6, bias=bias), bn2=norm(6), relu2=nn.ReLU(), head=nn.Linear(6, CLASSES))
    return nn.Sequential(layers)


def single():
    """One batch norm only."""
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(4, 16, bias=False), bn1=nn.BatchNorm1d(16), relu1=nn.ReLU(), head=nn.Linear(16, 3))
    )


def cnn(classes=10):
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), bn1=nn.BatchNorm2d(8), relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 12, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(12), relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(12, classes),
        )
    )  # fmt: skip


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def train(net, batches, steps=60, lr=0.1, after=lambda: None):
    """SGD with a rate that ends at 0."""
    learning = [value for value in net.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(learning, lr, momentum=0.9)
    net.train()
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
    return net


def run(net, batches, momentum, *, as_left=False):
    """What torch's running average makes of these batches, with the weights as they are."""
    for layer in norms(net):
        layer.momentum = momentum
        if not as_left:
            layer.reset_running_stats()
    net.train()
    with torch.no_grad():
        for x, _ in batches:
            net(x)
    return net.eval()


def settled(net, batches):
    """The statistics of a long and quiet training: the average of all batches; momentum 0.1 as usual."""
    run(net, batches, None)
    for layer in norms(net):
        layer.momentum = 0.1
    return net


@cache
def _sound(kind, **how):
    torch.manual_seed(0)
    net = {"mlp": mlp, "single": single, "cnn": cnn}[kind](**how)
    data = digits(36) if kind == "cnn" else blobs()
    train(net, data, steps=150 if kind == "cnn" else 60)
    return settled(net, data)


def sound(kind="mlp"):
    """Trained, and with the right statistics."""
    return copy.deepcopy(_sound(kind))


def reached(net, batches):
    """The input of each batch norm in evaluation, float64, by name."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].numpy()))
        for name, module in net.named_modules()
        if module in norms(net)
    ]
    with torch.no_grad():
        for x, _ in batches:
            net.eval()(x)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in seen.items()}


# What must be as it was


def bits(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def assert_same_bits(found, expected):
    """Two state dicts, to the bit; NaN is NaN."""
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True, msg=lambda text, key=key: key)


def everything_else(net):
    """What a state dict does not tell: which tensors, modes, hooks, attributes; and every source of chance."""
    return (
        {name: id(value) for name, value in (*net.named_buffers(), *net.named_parameters())},
        {name: (value.requires_grad, value._version) for name, value in net.named_parameters()},
        {
            name: (
                module.training,
                getattr(module, "momentum", None),
                getattr(module, "eps", None),
                getattr(module, "track_running_stats", None),
                sorted(module.__dict__),
                getattr(module.__dict__.get("train"), "mode", None),  # what a frozen layer was asked for
                *(len(hooks) for hooks in _hooks(module)),
            )
            for name, module in net.named_modules()
        },
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


def _hooks(module):
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._state_dict_hooks,
    )


def left_as_it_was(net, act, arm, error, raised=None):
    """Let it be stopped at the first, second, … occasion until it runs through; how often it was stopped."""
    expected = raised or error
    before, things = bits(net), everything_else(net)
    for at in range(1000):
        with arm(at, error):
            try:
                act()
            except expected:
                pass
            else:
                return at
        assert_same_bits(net.state_dict(), before)
        assert everything_else(net) == things
    raise AssertionError("it never ran through")


class Stopping:
    """Batches that draw from every source of chance, and raise before the n-th if they are told to."""

    def __init__(self, data):
        self.data, self.left, self.error = data, 0, None

    def __iter__(self):
        for batch in self.data:
            if self.error is not None:
                self.left -= 1
                if self.left < 0:
                    raise self.error("stop")
            random.random(), np.random.rand(), torch.rand(1)  # as augmentation does
            yield batch

    @contextmanager
    def at(self, left, error):
        self.left, self.error = left, error
        try:
            yield
        finally:
            self.left, self.error = 0, None


class Stop(nn.Identity):
    """It raises in its n-th forward, wherever it stands; never unless it is told to."""

    def __init__(self):
        super().__init__()
        self.left, self.error = 0, None

    def forward(self, x):
        if self.error is not None:
            self.left -= 1
            if self.left < 0:
                raise self.error("stop")
        return x

    @contextmanager
    def at(self, left, error):
        self.left, self.error = left, error
        try:
            yield
        finally:
            self.left, self.error = 0, None


class Shared(nn.Module):
    """One batch norm, called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.b(torch.relu(self.norm(self.a(x)))))))


class Intricate(nn.Module):
    """Small, with all that the causes look for: images, dropout between, two batch norms; it can be stopped."""

    def __init__(self):
        super().__init__()
        self.stop = Stop()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.drop(torch.relu(self.bn1(self.conv1(self.stop(x)))))
        return self.head(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def intricate():
    """Every channel is off in its own way: no cause explains it, so all are looked for."""
    torch.manual_seed(0)
    net = Intricate()
    for layer in (net.bn1, net.bn2):
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.1, 3)
        layer.num_batches_tracked += 40
    net.bn2.num_batches_tracked += 1
    net.bn1.momentum = None
    net.head.weight.requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    net.train()
    net.drop.eval()
    x = torch.randn(48, 1, 6, 6)
    y = torch.arange(48) % 2
    return net, cut(x + y[:, None, None, None], y, 16)


# One for each cause: the network, the data it is examined on, what else is said


PATIENTS = {}


def patient(cause):
    def kept(make):
        PATIENTS[cause] = make
        return make

    return kept


def held_out():
    return blobs(32, seed=2)


@patient("not finite")
def not_finite():
    net = sound()
    net.bn1.running_var[2] = torch.nan
    net.bn1.running_mean[5] = torch.inf
    return net, held_out(), {}


@patient("negative variance")
def negative():
    net = sound()
    net.bn2.running_var[1:3] = torch.tensor([-0.25, -0.0125])
    return net, held_out(), {}


@patient("half precision")
def half():
    return sound().half(), None, {}


@patient("never updated")
def never():
    net = sound()
    net.bn1.reset_running_stats()
    return net, held_out(), {}


@patient("initial values")
def initial(momentum=0.02):
    return run(sound(), blobs(), momentum), held_out(), {}


@patient("momentum 0")
def momentum_zero():
    return run(sound(), blobs(), 0.0), held_out(), {}


@patient("momentum")
def momentum(momentum=0.9):
    return run(sound(), blobs(size=8), momentum), held_out(), {}


@patient("sampling noise")
def noise(size=8):
    return run(sound("single"), blobs(60, size), 0.3), held_out(), {}


@patient("lag")
def lag():
    """Behind the first layer each channel is off in its own way."""
    net = sound()
    generator = torch.Generator().manual_seed(0)
    layer = net.bn2
    layer.running_mean += layer.running_var.sqrt() * torch.randn(6, generator=generator)
    layer.running_var *= torch.exp(0.6 * torch.randn(6, generator=generator))
    return net, held_out(), {}


@patient("variance convention")
def variance(size=4):
    """The plain average of so many batches that no noise is left."""
    net = run(sound(), blobs(1600 // size, size), None)
    return net, held_out(), {}


@patient("sorted batches")
def sorted_batches():
    x, y = joined(blobs())
    order = y.argsort(stable=True)
    return run(sound(), cut(x[order], y[order]), 0.1), held_out(), {}


@patient("preprocessing")
def preprocessing(scale=4.0, offset=1.0):
    return sound("cnn"), [(scale * x + offset, y) for x, y in digits(20, start=36)], {}


@patient("domain")
def domain():
    """The same blobs seen from nearer: every channel of the first layer varies more, alike."""
    return sound(), [(1.5 * x, y) for x, y in held_out()], {}


def wider():
    return sound(), blobs(32, seed=2, noise=2.5), {}


@patient("dropout")
def dropout(rate=0.4):
    torch.manual_seed(0)
    return settled(train(mlp(dropout=rate), blobs(), 100), blobs()), held_out(), {}


@patient("averaged weights")
def averaged():
    torch.manual_seed(0)
    net = mlp()
    average = AveragedModel(net)
    train(net, blobs(), after=lambda: average.update_parameters(net))
    return average, held_out(), {}


def merged():
    """Halfway between two networks, with the statistics of one."""
    net = sound()
    torch.manual_seed(5)
    other = train(mlp(), blobs())
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    return net, held_out(), {}


@patient("pruned weights")
def pruned():
    net = sound()
    with torch.no_grad():
        for layer in (net.fc1, net.fc2):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    return net, held_out(), {}


@patient("updated twice")
def updated_twice():
    net = sound()
    net.bn2.num_batches_tracked *= 2
    return net, None, {}


def updated_twice_in_all(steps=20):
    net = sound()
    optimizer = torch.optim.Adam(net.parameters(), 0.0)
    for value in net.parameters():
        value.grad = torch.zeros_like(value)
    for _ in range(steps):
        optimizer.step()
    return net, None, {"optimizer": optimizer}


class Populations(nn.Module):
    """One network for two kinds of data, each in a call of its own: what is stored is of both."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)

    def branch(self, x):
        return self.head(torch.relu(self.norm(self.fc(x))))

    def forward(self, x):
        return self.branch(x) + 0.1 * self.branch(-2 * x)


@patient("called several times")
def called_several_times():
    torch.manual_seed(0)
    return train(Populations(), blobs(), steps=120).eval(), held_out(), {}


class ByBatch(nn.BatchNorm1d):
    def forward(self, x):
        stored = self.running_mean, self.running_var
        return F.batch_norm(x, *stored, self.weight, self.bias, True, self.momentum, self.eps)


class Fixed(nn.Module):
    """Buffers that training never changes, as detectors have them."""

    def __init__(self, layer):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(layer, name).detach().clone())

    def forward(self, x):
        return (x - self.running_mean) / (self.running_var + 1e-5).sqrt() * self.weight + self.bias


@patient("by the batch")
def by_the_batch():
    torch.manual_seed(0)
    return train(mlp(ByBatch), blobs()).eval(), held_out(), {}


@patient("frozen by class")
def frozen_by_class():
    net = sound()
    net.bn1 = Fixed(net.bn1)
    return net, held_out(), {}


def stripes(num, seed):
    """Stripes of two directions or squares, one by one, each of a brightness and contrast of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    across = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(3).expand(12, 12)
    images = torch.stack([across, across.T, across * across.T])[labels][:, None]
    images = images + 0.3 * torch.randn(num, 1, 12, 12, generator=generator)
    contrast = torch.exp(1.5 * torch.randn(num, 1, 1, 1, generator=generator))
    return cut(contrast * (images + 5 * torch.randn(num, 1, 1, 1, generator=generator)), labels, 1)


@patient("batches of one")
def batches_of_one():
    torch.manual_seed(0)
    return train(cnn(CLASSES), stripes(1200, 1), steps=1200, lr=0.01).eval(), stripes(500, 2), {}


@patient("frozen parameters")
def frozen_parameters():
    net = sound()
    for value in list(net.parameters())[:-2]:
        value.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    other = [(1.5 * x + torch.randn(x.shape, generator=generator), y) for x, y in blobs()]
    return run(net, other, 0.1, as_left=True), held_out(), {}


@patient("frozen by eval()")
def frozen_by_eval():
    net = sound().train()
    net.bn1.eval()
    return net, [(x + 3, y) for x, y in held_out()], {}


@patient("eps")
def eps():
    """Trained with Keras's, on images so dark that it matters, and built anew with torch's."""
    torch.manual_seed(0)
    net, dark = mlp(), [(0.01 * x, y) for x, y in blobs()]
    for layer in norms(net):
        layer.eps = 1e-3
    settled(train(net, dark, 100), dark)
    for layer in norms(net):
        layer.eps = 1e-5
    return net, [(0.01 * x, y) for x, y in held_out()], {}


@patient("track_running_stats")
def not_tracking():
    net = sound()
    net.bn1.track_running_stats = False
    return net, held_out(), {}


def without_statistics():
    net = sound()
    net.bn1 = nn.BatchNorm1d(8, track_running_stats=False)
    return net, held_out(), {}


@patient("tiny batches")
def tiny_batches():
    """Its only layer is off, and the data that show it come in fours."""
    net = sound("single")
    net.bn1.running_mean += 1
    return net, blobs(256, 4, seed=2), {}


@patient("dead channels")
def dead():
    net = sound("cnn")
    with torch.no_grad():
        net.conv1.weight[:4] *= 1e-4
    return net, digits(20, start=36), {}


@patient("bias before batch norm")
def bias():
    torch.manual_seed(0)
    return settled(train(mlp(bias=True), blobs()), blobs()), held_out(), {}


@patient("weight decay")
def weight_decay():
    net = sound()
    return net, None, {"optimizer": torch.optim.AdamW(net.parameters(), weight_decay=0.05)}


@patient("synchronised alone")
def synchronised():
    return nn.SyncBatchNorm.convert_sync_batchnorm(sound()), None, {}


@patient("program in training mode")
def exported(*, training=True):
    x = blobs(1)[0][0]
    shapes = ({0: torch.export.Dim("samples", min=2)},)
    return torch.export.export(sound().train(training), (x,), dynamic_shapes=shapes).module(), None, {}


def scripted(*, training=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of this very function
        return torch.jit.script(sound().train(training)), None, {}


@patient("last batch of one")
def last_batch_of_one():
    return sound(), [*held_out(), *blobs(1, 1)], {}


@patient("updated in part")
def updated_in_part(buffer="running_var"):
    net = sound()
    for layer in norms(net):
        getattr(layer, buffer).fill_(float(buffer == "running_var"))
    return net, held_out(), {}


@patient("common factor")
def factor(by=7.0):
    net = sound()
    for layer in norms(net):
        layer.running_mean *= by
        layer.running_var *= by
    return net, held_out(), {}


CONVENTIONS = {
    "1/σ": lambda var: (var + 1e-5).rsqrt(),
    "σ": torch.sqrt,
    "1/σ²": torch.reciprocal,
}


@patient("not the variance")
def not_the_variance(stored="1/σ"):
    net = sound()
    for layer in norms(net):
        layer.running_var.copy_(CONVENTIONS[stored](layer.running_var))
    return net, held_out(), {}


@patient("weights of batch norm")
def unused_weights(weight="1"):
    """Trained with weights that stay as they are; the file has others."""
    torch.manual_seed(0)
    net = mlp()
    generator = torch.Generator().manual_seed(1)
    files = {layer: 0.05 + 0.1 * torch.rand(layer.num_features, generator=generator) for layer in norms(net)}
    used = {"1": torch.ones_like, "1 + γ": lambda gamma: 1 + gamma, "|γ|": torch.abs}[weight]
    for layer, gamma in files.items():
        if weight == "|γ|":
            gamma *= torch.where(torch.arange(len(gamma)) % 2 > 0, 1.0, -1.0)
        layer.weight.requires_grad_(False)
        layer.weight.data.copy_(used(gamma))
    settled(train(net, blobs(), 100), blobs())
    for layer, gamma in files.items():
        layer.weight.data.copy_(gamma)
    return net, held_out(), {}


@patient("another momentum in training")
def another_momentum(left=0.6):
    net = sound()
    for layer in norms(net):
        layer.running_mean.mul_(1 - left)
        layer.running_var.mul_(1 - left).add_(left)
    return net, held_out(), {}


class InTraining(nn.Module):
    """A network whose forward does something to its input in train() only."""

    def __init__(self, change):
        super().__init__()
        self.change, self.net = change, mlp()

    def forward(self, x):
        return self.net(self.change(x) if self.training else x)


@patient("randomness")
def random_in_training(change=lambda x: F.dropout(x, 0.3)):
    torch.manual_seed(0)
    return settled(train(InTraining(change), blobs(), 100), blobs()), held_out(), {}


@patient("training mode")
def scaled_in_training():
    return random_in_training(lambda x: 1.5 * x)


@patient("frozen statistics")
def frozen_statistics():
    net = sound()
    net.bn2.running_mean += 2
    net.bn2.running_var *= 4
    tn.freeze(net, "bn2")
    return net, held_out(), {}


@patient("folded statistics")
def folded():
    net = sound()
    for layer in norms(net):
        scale = layer.weight.data / (layer.running_var + layer.eps).sqrt()
        layer.bias.data -= layer.running_mean * scale
        layer.weight.data = scale * (1 + layer.eps) ** 0.5
        layer.reset_running_stats()
    return net, held_out(), {}


@patient("order of classes")
def order_of_classes():
    return sound(), [(x, (y + 1) % CLASSES) for x, y in held_out()], {}


@patient("unexplained")
def unexplained():
    """Each channel of the only layer is off in its own way."""
    net = sound("single")
    generator = torch.Generator().manual_seed(0)
    layer = net.bn1
    layer.running_mean += layer.running_var.sqrt() * torch.randn(16, generator=generator)
    layer.running_var *= torch.exp(1.2 * torch.randn(16, generator=generator))
    return net, held_out(), {}

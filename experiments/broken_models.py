"""Networks that are broken in a known way, and healthy ones: what `experiments/doctor.py` shows to `diagnose`."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load

Batches = list[tuple[Tensor, Tensor]]


@dataclass
class Images:
    """Training and two disjoint sets of held-out images, standardised."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int = 10

    @staticmethod
    def of(name: str, *, train: int, held_out: int) -> "Images":
        images = load(name, limit=train)
        scale = Scale.of(images.train.images)
        order = torch.randperm(len(images.test), generator=torch.Generator().manual_seed(0))[: 2 * held_out]
        test = scale(images.test.images[order]), images.test.labels[order]
        return Images(
            (scale(images.train.images), images.train.labels),
            (test[0][:held_out], test[1][:held_out]),
            (test[0][held_out:], test[1][held_out:]),
        )


def batches(part: tuple[Tensor, Tensor], size: int, *, order: Tensor | None = None) -> Batches:
    images, labels = part if order is None else (part[0][order], part[1][order])
    cut = list(zip(images.split(size), labels.split(size), strict=True))
    return [(x, y) for x, y in cut if len(x) > 1]


def mlp(shape: tuple[int, ...], rng: random.Random, *, norm: Any = nn.BatchNorm1d, dropout: float = 0.0) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    before = math.prod(shape)
    for width in [rng.choice([48, 64, 96, 128]) for _ in range(rng.choice([3, 4, 5]))]:
        layers += [nn.Linear(before, width), norm(width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 10))


def cnn(shape: tuple[int, ...], rng: random.Random, *, norm: Any = nn.BatchNorm2d, dropout: float = 0.0) -> nn.Module:
    layers: list[nn.Module] = []
    before = shape[0]
    for width in [rng.choice([8, 12, 16]), rng.choice([16, 24]), rng.choice([24, 32])]:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), norm(width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class Residual(nn.Module):
    def __init__(self, width: int, norm: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def resnet(
    shape: tuple[int, ...], rng: random.Random, *, norm: Any = nn.BatchNorm2d, dropout: float = 0.0
) -> nn.Module:
    width = rng.choice([8, 12])
    stem = [nn.Conv2d(shape[0], width, 3, stride=4, padding=1, bias=False), norm(width), nn.ReLU()]
    blocks: list[nn.Module] = [Residual(width, norm) for _ in range(rng.choice([2, 3]))]
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*stem, *drop, *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


class Shared(nn.Module):
    """One batch norm for all convolutions."""

    def __init__(self, shape: tuple[int, ...], rng: random.Random) -> None:
        super().__init__()
        width = rng.choice([12, 16])
        self.convs = nn.ModuleList(
            [nn.Conv2d(shape[0], width, 3, stride=2, padding=1), nn.Conv2d(width, width, 3, stride=2, padding=1)]
        )
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(self.norm(conv(x)))
        return self.head(x.mean((2, 3)))


class Checkpointed(nn.Module):
    """The first layers are run again in backward, and their batch norms count twice."""

    def __init__(self, inner: nn.Sequential, until: int) -> None:
        super().__init__()
        self.inner = inner
        self.until = until

    def forward(self, x: Tensor) -> Tensor:
        first = self.inner[: self.until]
        x = checkpoint(first, x, use_reentrant=False) if self.training else first(x)
        return self.inner[self.until :](x)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet": resnet}


def momentum_of(network: nn.Module, momentum: float | None) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
    return network


def norms(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def train(
    network: nn.Module,
    part: tuple[Tensor, Tensor],
    *,
    batch: int = 32,
    epochs: float = 4,
    lr: float = 0.05,
    cosine: bool = True,
    seed: int = 0,
    adam: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> torch.optim.Optimizer:
    learning = [value for value in network.parameters() if value.requires_grad]
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(learning, lr / 20) if adam else torch.optim.SGD(learning, lr, momentum=0.9, weight_decay=5e-4)
    )
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, int(epochs * (len(part[1]) // batch)))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (1 + math.cos(math.pi * t / steps)) / 2 if cosine else 1.0
    )
    network.train()
    done = 0
    while done < steps:
        for x, y in batches(part, batch, order=torch.randperm(len(part[1]), generator=generator)):
            if done == steps or len(x) < 2:
                break
            loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            on_step()
            done += 1
    return optimizer


@dataclass
class Broken:
    """A network, what it is evaluated on, and which causes are the right ones to name first."""

    network: nn.Module
    causes: set[str]
    severity: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Tensor], Tensor] = lambda x: x
    optimizer: torch.optim.Optimizer | None = None
    batch: int = 32


def _plain(data: Images, rng: random.Random, seed: int, **how: Any) -> nn.Module:
    torch.manual_seed(seed)
    name = how.pop("architecture", None) or rng.choice(list(ARCHITECTURES))
    network = ARCHITECTURES[name](tuple(data.train[0].shape[1:]), rng, dropout=how.pop("dropout", 0.0))
    momentum_of(network, how.pop("momentum", 0.1))
    train(network, data.train, seed=seed, **how)
    return network


def never_updated(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    share = rng.uniform(0.3, 1.0)
    for layer in norms(network):
        if rng.random() < share or layer is norms(network)[-1]:
            layer.reset_running_stats()
    return Broken(network, {"never updated"}, {"share": share})


def initial_values(data: Images, rng: random.Random, seed: int) -> Broken:
    left = rng.uniform(0.2, 0.95)
    steps = 4 * (len(data.train[1]) // 32)
    momentum = 1 - left ** (1 / steps)
    return Broken(_plain(data, rng, seed, momentum=momentum), {"initial values"}, {"left": left})


def momentum_zero(data: Images, rng: random.Random, seed: int) -> Broken:
    return Broken(_plain(data, rng, seed, momentum=0.0), {"momentum 0"})


def momentum_large(data: Images, rng: random.Random, seed: int) -> Broken:
    momentum = rng.choice([0.5, 0.7, 0.9, 0.95, 0.99, 0.997])
    batch = rng.choice([8, 16, 32])
    return Broken(
        _plain(data, rng, seed, momentum=momentum, batch=batch), {"momentum"}, {"momentum": momentum}, batch=batch
    )


def tiny_batches(data: Images, rng: random.Random, seed: int) -> Broken:
    batch = rng.choice([2, 3, 4])
    network = _plain(data, rng, seed, batch=batch, lr=0.005, epochs=2, architecture=rng.choice(["mlp", "mlp", "cnn"]))
    # Three faces of one fault: too little to train on, torch's n/(n-1), the noise of the few.
    return Broken(network, {"tiny batches", "variance convention", "sampling noise"}, {"batch": batch}, batch=batch)


def variance_convention(data: Images, rng: random.Random, seed: int) -> Broken:
    batch = rng.choice([4, 6, 8])
    network = _plain(data, rng, seed, batch=batch, lr=0.01, epochs=3, architecture="mlp", momentum=0.02)
    return Broken(network, {"variance convention", "tiny batches"}, {"batch": batch}, batch=batch)


def lag(data: Images, rng: random.Random, seed: int) -> Broken:
    momentum, lr = rng.uniform(0.01, 0.02), rng.choice([0.1, 0.2])
    network = _plain(data, rng, seed, momentum=momentum, lr=lr, cosine=False, epochs=6)
    return Broken(network, {"lag"}, {"momentum": momentum, "lr": lr})


def sorted_batches(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    order = torch.argsort(data.train[1], stable=True)
    found = batches(data.train, 32, order=order)
    start = rng.randrange(len(found))
    passed = [found[(start + i) % len(found)] for i in range(rng.randrange(20, len(found)))]
    if pure := rng.random() < 0.3:
        rng.shuffle(passed)
    network.train()
    with torch.no_grad():
        for x, _ in passed:
            network(x)
    return Broken(network, {"sorted batches"}, {"batches": len(passed), "shuffled": pure})


def preprocessing(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    kind = rng.choice(["scale", "unscaled", "shift"])
    if kind == "scale":
        factor = rng.choice([1 / 255, 1 / 58, 4.0, 58.0, 255.0])
        return Broken(network, {"preprocessing"}, {"times": factor}, change=lambda x: x * factor)
    if kind == "unscaled":  # 0..1, as ToTensor gives it, where training standardised
        return Broken(network, {"preprocessing"}, {"0..1": True}, change=lambda x: x * 0.25 + 0.47)
    shift = rng.choice([-1, 1]) * rng.uniform(0.8, 2.0)
    return Broken(network, {"preprocessing"}, {"shift": shift}, change=lambda x: x * 0.8 + shift)


def domain(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    kind = rng.choice(["noise", "blur", "occlusion"])
    strength = rng.uniform(0.5, 1.0)
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return x + strength * 1.5 * torch.randn(x.shape, generator=generator)

    def blur(x: Tensor) -> Tensor:
        size = 5 if strength < 0.75 else 7
        return F.avg_pool2d(F.pad(x, [size // 2] * 4, mode="reflect"), size, 1)

    def occlusion(x: Tensor) -> Tensor:
        y = x.clone()
        y[..., : int(x.shape[-1] * (0.3 + 0.3 * strength))] = float(x.max()) * strength
        return y

    change = {"noise": noise, "blur": blur, "occlusion": occlusion}[kind]
    return Broken(network, {"domain"}, {"kind": kind, "strength": strength}, change=change)


def averaged_weights(data: Images, rng: random.Random, seed: int) -> Broken:
    torch.manual_seed(seed)
    name = rng.choice(list(ARCHITECTURES))
    network = ARCHITECTURES[name](tuple(data.train[0].shape[1:]), rng)
    decay = rng.choice([0.97, 0.98, 0.99])
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    train(network, data.train, lr=0.1, cosine=False, seed=seed, on_step=lambda: average.update_parameters(network))
    wrapped = rng.random() < 0.5
    return Broken(average if wrapped else average.module, {"averaged weights"}, {"decay": decay, "wrapped": wrapped})


def merged_weights(data: Images, rng: random.Random, seed: int) -> Broken:
    state = rng.getstate()
    first = _plain(data, rng, seed)
    rng.setstate(state)
    other = _plain(data, rng, seed + 1000)
    weight = rng.uniform(0.4, 0.6)
    with torch.no_grad():
        for mine, theirs in zip(first.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, weight)
    return Broken(first, {"averaged weights"}, {"weight": weight})


def pruned_weights(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    share = rng.uniform(0.5, 0.9)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = module.weight
                weight[weight.abs() < weight.abs().flatten().quantile(share)] = 0
    return Broken(network, {"pruned weights"}, {"share": share})


def updated_twice(data: Images, rng: random.Random, seed: int) -> Broken:
    torch.manual_seed(seed)
    inner = rng.choice([mlp, cnn])(tuple(data.train[0].shape[1:]), rng)
    assert isinstance(inner, nn.Sequential)
    whole = rng.random() < 0.4
    network = Checkpointed(inner, len(inner) - 1 if whole else 4)
    optimizer = train(network, data.train, seed=seed, adam=whole)
    return Broken(network, {"updated twice"}, {"all": whole}, optimizer=optimizer if whole else None)


def called_several_times(data: Images, rng: random.Random, seed: int) -> Broken:
    torch.manual_seed(seed)
    network = Shared(tuple(data.train[0].shape[1:]), rng)
    train(network, data.train, seed=seed)
    return Broken(network, {"called several times"})


def frozen_parameters(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    for value in list(network.parameters())[:-2]:
        value.requires_grad_(False)
    strength = rng.uniform(0.5, 1.5)
    other = F.avg_pool2d(F.pad(data.train[0], [2] * 4, mode="reflect"), 5, 1) + strength * torch.randn(
        data.train[0].shape
    )
    train(network, (other, data.train[1]), epochs=1, seed=seed, lr=0.01)
    return Broken(network, {"frozen parameters"}, {"strength": strength})


def damaged(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    layer = rng.choice(norms(network))
    kind = rng.choice(["nan", "inf", "negative"])
    if kind == "negative":
        layer.running_var[:3] = -0.01
        return Broken(network, {"negative variance"}, {"kind": kind})
    layer.running_var[rng.randrange(len(layer.running_var))] = float(kind)
    return Broken(network, {"not finite"}, {"kind": kind})


def epsilon(data: Images, rng: random.Random, seed: int) -> Broken:
    torch.manual_seed(seed)
    small = rng.uniform(0.01, 0.04)  # images so scaled that the first variances are like eps
    name = rng.choice(["cnn", "resnet", "mlp"])
    network = ARCHITECTURES[name](tuple(data.train[0].shape[1:]), rng)
    for layer in norms(network):
        layer.eps = 1e-3
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(0.3)
    train(network, (data.train[0] * small, data.train[1]), seed=seed)
    for layer in norms(network):
        layer.eps = 1e-5
    return Broken(network, {"eps"}, {"images times": small}, change=lambda x: x * small)


def not_tracking(data: Images, rng: random.Random, seed: int) -> Broken:
    network = _plain(data, rng, seed)
    built = rng.random() < 0.5
    for layer in norms(network):
        layer.track_running_stats = False
        if built:
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return Broken(network, {"track_running_stats"}, {"built so": built})


def dropout_before(data: Images, rng: random.Random, seed: int) -> Broken:
    rate = rng.uniform(0.3, 0.6)
    network = _plain(data, rng, seed, dropout=rate, epochs=5, architecture=rng.choice(["mlp", "cnn"]))
    return Broken(network, {"dropout"}, {"rate": rate})


def two_faults(data: Images, rng: random.Random, seed: int) -> Broken:
    first = rng.choice([momentum_large, sorted_batches, pruned_weights, never_updated])(data, rng, seed)
    second = rng.choice([domain, preprocessing])(data, rng, seed)
    return Broken(
        first.network, first.causes | second.causes, {**first.severity, **second.severity}, change=second.change
    )


def dropout_only(data: Images, rng: random.Random, seed: int) -> Broken:
    torch.manual_seed(seed)
    network = ARCHITECTURES[rng.choice(["cnn", "resnet"])](tuple(data.train[0].shape[1:]), rng)
    assert isinstance(network, nn.Sequential)
    network.insert(len(network) - 1, nn.Dropout(rng.uniform(0.3, 0.7)))
    train(network, data.train, seed=seed)
    return Broken(network, set())


def overfitted(data: Images, rng: random.Random, seed: int) -> Broken:
    few = (data.train[0][:400], data.train[1][:400])
    torch.manual_seed(seed)
    network = ARCHITECTURES[rng.choice(list(ARCHITECTURES))](tuple(data.train[0].shape[1:]), rng)
    train(network, few, epochs=20, seed=seed)
    return Broken(network, set())


def label_noise(data: Images, rng: random.Random, seed: int) -> Broken:
    labels = data.train[1].clone()
    wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < rng.uniform(0.3, 0.5)
    labels[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    network = ARCHITECTURES[rng.choice(list(ARCHITECTURES))](tuple(data.train[0].shape[1:]), rng)
    train(network, (data.train[0], labels), seed=seed)
    return Broken(network, set())


KINDS: dict[str, Callable[[Images, random.Random, int], Broken]] = {
    "never updated": never_updated,
    "initial values": initial_values,
    "momentum 0": momentum_zero,
    "momentum 0.5 to 0.997": momentum_large,
    "tiny batches": tiny_batches,
    "variance convention": variance_convention,
    "lag": lag,
    "sorted batches": sorted_batches,
    "wrong normalisation": preprocessing,
    "other domain": domain,
    "EMA weights": averaged_weights,
    "merged weights": merged_weights,
    "pruned weights": pruned_weights,
    "checkpointing": updated_twice,
    "called several times": called_several_times,
    "frozen parameters": frozen_parameters,
    "NaN, inf, negative": damaged,
    "eps": epsilon,
    "track_running_stats": not_tracking,
    "dropout before": dropout_before,
    "two faults": two_faults,
    "decoy: dropout behind": dropout_only,
    "decoy: overfitting": overfitted,
    "decoy: label noise": label_noise,
}


FORGOTTEN = 0.005
"""What a network that is barely trained has left of the initial statistics: with more a repair gains, and it is not
healthy."""


def healthy(data: Images, rng: random.Random, seed: int, *, barely: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """Annealed training at usual settings: architecture, batch, momentum, rate, optimizer and length vary."""
    regime: dict[str, Any] = {
        "architecture": rng.choice(list(ARCHITECTURES)),
        "batch": rng.choice([16, 32, 64, 128]),
        "lr": rng.choice([0.02, 0.05, 0.1]),
        "momentum": rng.choice([0.05, 0.1, 0.1, 0.1, 0.2]),
        "epochs": rng.choice([3, 4, 6]),
        "adam": rng.random() < 0.25,
    }
    if regime["batch"] == 128:
        regime["epochs"] = 8
    if barely:
        steps = math.ceil(math.log(FORGOTTEN) / math.log(1 - regime["momentum"]))
        regime["epochs"] = steps / (len(data.train[1]) // regime["batch"])
    return _plain(data, rng, seed, **regime), regime

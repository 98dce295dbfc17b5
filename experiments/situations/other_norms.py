"""Batch norm as classes that are not torch's: channels last with buffers of other names, or frozen by its class."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import cut, fit, hit, measured, norms, overwrite, plainly, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("channels last, one layer wrong", "frozen by its class", "frozen by its class, one layer wrong")
_CLASSES, _SIDE = 5, 12


class LastAxisNorm(nn.Module):
    """Batch norm over all axes but the last, written by hand, with the names that Keras has."""

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, width: int, decay: float = 0.9, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.decay, self.epsilon = decay, epsilon
        self.scale, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("moving_mean", torch.zeros(width))
        self.register_buffer("moving_variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.moving_mean, self.moving_variance
        if self.training:
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes, correction=0)
            with torch.no_grad():
                self.moving_mean.lerp_(mean, 1 - self.decay)
                self.moving_variance.lerp_(variance, 1 - self.decay)
        return (x - mean) * (variance + self.epsilon).rsqrt() * self.scale + self.offset


class Patches(nn.Module):
    """Maps of 4 × 4 patches, channels last, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(before, 32, bias=False) for before in (48, 32, 32)])
        self.norms = nn.ModuleList([LastAxisNorm(32) for _ in range(3)])
        self.head = nn.Linear(32 * 9, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = F.unfold(images, 4, stride=4).transpose(1, 2)
        for each, norm in zip(self.maps, self.norms, strict=True):
            x = F.relu(norm(each(x)))
        return self.head(x.flatten(1))


class ConstantNorm(nn.Module):
    """Weight, bias and both moments are buffers: an affine map of each channel, in train() too."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, learned: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = learned.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(learned, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight / (self.running_var + self.eps).sqrt()
        return x * gain[:, None, None] + (self.bias - self.running_mean * gain)[:, None, None]


class Residual(nn.Module):
    """A stem and two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU()))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(16 * 9, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.avg_pool2d(x, 2).flatten(1))


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Patterns under noise, from 0 to 255 about."""
    g = seeded(seed)
    patterns = F.interpolate(torch.randn(_CLASSES, 3, 4, 4, generator=seeded(71)), size=(_SIDE, _SIDE), mode="bilinear")
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    return 120 + 35 * (patterns[label] + 2.5 * torch.randn(n, 3, _SIDE, _SIDE, generator=g)), label


def frozen(model: Residual) -> Residual:
    """What a function that freezes a backbone makes of it, at the end of training."""
    for part in (model.stem, *model.blocks):
        assert isinstance(part, nn.Sequential)
        learned = part[1]
        assert isinstance(learned, nn.BatchNorm2d)
        part[1] = ConstantNorm(learned)
    return model


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = cut(*images(1600, 270 + seed), size=32), cut(*images(800, 5270 + seed), size=32)
    model: nn.Module
    if variant == 0:
        model = fit(Patches(), training, loss, seed=seed, epochs=4, rate=5e-3)
    else:
        trained = Residual()
        fit(trained, training, loss, seed=seed, epochs=3, rate=5e-3)
        model = frozen(trained).eval()

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, hit, plainly)

    reached = measure(model)
    require(not norms(model) and reached > 0.85, f"{len(norms(model))} of torch's norms, trained to {reached:.3f}")
    if variant == 0:
        mean, variance = model.get_buffer("norms.1.moving_mean"), model.get_buffer("norms.1.moving_variance")
        mean.copy_(mean.roll(1) + 2 * variance.sqrt())
        variance.mul_(9)
    elif variant == 2:
        overwrite(model.get_submodule("blocks.0.1"), seed, by=3.0, times=0.3)
    before = measure(model)
    require(variant == 1 or before < reached - 0.15, f"{before:.3f} as it is, {reached:.3f} before: no harm")
    right = (
        Expected(
            healthy=False,
            useless=frozenset({"Nothing", "Preprocess", "RetrainWith"}),
            forbidden=UNTRUE - {"lag"},
            refusal=True,
            named=frozenset({"norms.1"}),
        ),
        Expected(
            healthy=True,
            useless=frozenset({"RepairStatistics", "Preprocess", "RetrainWith", "Unfreeze"}),
            # That a class keeps its statistics still is true, and may be noted.
            forbidden=UNTRUE - {"frozen statistics"},
        ),
        Expected(
            healthy=False,
            first=frozenset({"frozen_wrong"}),
            useless=frozenset({"Nothing", "Preprocess", "RetrainWith"}),
            forbidden=UNTRUE - {"frozen statistics", "lag"},
            named=frozenset({"blocks.0.1"}),
        ),
    )[variant]
    return Situation(
        name="other libraries' norms",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        right=right,
    )

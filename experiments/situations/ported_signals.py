"""A 1-D convnet for signals, whose numbers came from another framework in another convention."""

import math

import torch
from situations.situation import Expected, Situation, require
from situations.training import cut, fit, hit, measured, norms, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("1/σ in the place of σ²", "σ in the place of σ²", "one factor in all")
_CLASSES = 6
_FACTOR = 96.0


def signals(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two channels of 48 steps in small units: a wave of the class's frequency, the other channel ahead of it."""
    g = seeded(seed)
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    phase = 2 * math.pi * torch.rand(n, 1, generator=g)
    time = torch.arange(48) / 48
    angle = 2 * math.pi * (1.5 + 1.2 * label[:, None]) * time + phase
    ahead = 0.6 * (label[:, None] % 3)
    wave = torch.stack([angle.sin(), (angle + ahead).sin()], 1)
    return 0.1 * (wave + 1.6 * torch.randn(n, 2, 48, generator=g)) + 0.05, label


def network(width: int) -> nn.Module:
    """TensorFlow's ε of 1e-3."""
    layers: list[nn.Module] = []
    for before, after, stride in [(2, width, 1), (width, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 2)]:
        conv = nn.Conv1d(before, after, 5, stride, padding=2, bias=False)
        layers += [conv, nn.BatchNorm1d(after, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * width, _CLASSES))


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = cut(*signals(1600, 10 + seed), size=32), cut(*signals(1000, 5010 + seed), size=50)
    model = network(12 + 4 * (seed % 2))
    fit(model, training, lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]), seed=seed, epochs=4)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, hit, plainly)

    trained = measure(model)
    for layer in norms(model):
        assert layer.running_mean is not None and layer.running_var is not None
        assert layer.num_batches_tracked is not None
        if variant == 0:
            layer.running_var.copy_((layer.running_var + layer.eps).rsqrt())
        elif variant == 1:
            layer.running_var.sqrt_()
        else:
            layer.running_mean *= _FACTOR
            layer.running_var *= _FACTOR
        layer.num_batches_tracked.zero_()  # the other framework does not count
    before, reached = measure(model), measure(recalibrated(model, training, plainly))
    require(trained > 0.8 and reached > trained - 0.03, f"trained to {trained:.3f}, measured anew {reached:.3f}")
    require(before < trained - 0.15, f"ported it still has {before:.3f} of {trained:.3f}")
    return Situation(
        name="ported signals",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        right=Expected(
            healthy=False,
            first=frozenset({"scale"}),
            remedy=frozenset({"RepairStatistics", "ChangeCode"}),
            repair_gain=True,
        ),
    )

"""Layers that divide by the batch in eval() too: what comes out for a sample depends on those beside it."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import cut, fit, hit, measured, plainly, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("training=True in a subclass", "no buffers at all", "track_running_stats=False, batches of one class")
_CLASSES, _SIDE = 5, 10


class Transductive(nn.BatchNorm2d):
    """As code for few shots has it: the mode is not asked."""

    def forward(self, input: Tensor) -> Tensor:
        stored = self.running_mean, self.running_var
        return F.batch_norm(input, *stored, self.weight, self.bias, training=True, momentum=0.1, eps=self.eps)


class BatchStatNorm(nn.Module):
    """Weight and bias only: nothing is stored."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


class Untracked(nn.BatchNorm2d):
    """Only torch's own argument, set."""

    def __init__(self, width: int) -> None:
        super().__init__(width, track_running_stats=False)


def network(norm: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in [(3, 12), (12, 16), (16, 24)]:
        layers += [nn.Conv2d(before, after, 3, 2, padding=1, bias=False), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, _CLASSES))


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Patterns under noise; a class has its brightness, too."""
    g = seeded(seed)
    patterns = F.interpolate(torch.randn(_CLASSES, 3, 4, 4, generator=seeded(91)), size=(_SIDE, _SIDE), mode="bilinear")
    patterns = patterns + 1.5 * torch.randn(_CLASSES, 3, 1, 1, generator=seeded(92))
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    return patterns[label] + 2.5 * torch.randn(n, 3, _SIDE, _SIDE, generator=g), label


def sorted_by_class(x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """As files in folders are read where nothing shuffles."""
    order = label.argsort(stable=True)
    return x[order], label[order]


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, (x, label) = cut(*images(1600, 290 + seed), size=32), images(800, 5290 + seed)
    model = network((Transductive, BatchStatNorm, Untracked)[variant])
    fit(model, training, loss, seed=seed, epochs=4, rate=5e-3)
    mixed, sorted_ = cut(x, label, size=32), cut(*sorted_by_class(x, label), size=32)

    def measure(net: nn.Module) -> float:
        """In batches that are mixed in another way than those of training."""
        return measured(net.eval(), sorted_, hit, plainly)

    kept = {name: value.clone() for name, value in model.state_dict().items()}  # the first writes in eval(), too
    among_others, by_class = measured(model, mixed, hit, plainly), measure(model)
    model.load_state_dict(kept)
    require(among_others > 0.85, f"{among_others:.3f} in mixed batches")
    require(by_class < among_others - 0.2, f"{by_class:.3f} in batches of one class, {among_others:.3f} in mixed ones")
    # In the first two the data look well, and yet what comes out for an image depends on the others.
    data = sorted_ if variant == 2 else mixed
    first = frozenset({"by the batch", "track_running_stats"} if variant == 2 else {"by the batch"})
    return Situation(
        name="always by the batch",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=data,
        training=training,
        measure=measure,
        reached=among_others,
        right=Expected(
            healthy=False,
            first=first,
            # Other statistics are not read, and no input helps.
            useless=frozenset(
                {"Nothing", "Preprocess"} if variant == 2 else {"Nothing", "Preprocess", "RepairStatistics"}
            ),
            # That nothing is tracked is true of the second; batches of the third are sorted.
            forbidden=UNTRUE
            - {"by the batch"}
            - (frozenset(), {"track_running_stats"}, {"track_running_stats", "sorted batches"})[variant],
            repair_gain=False,
            refusal=variant == 1,
            refusal_words=frozenset({"by the batch", "by its batch", "own batch", "each batch", "depends on"}),
        ),
    )

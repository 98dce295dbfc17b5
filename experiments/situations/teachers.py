"""Training with more than one forward in a step: a teacher of averaged weights, a pass beside it, two views."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import cut, fit, hit, measured, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = (
    "a mean teacher that saw augmented images",
    "a pass over other data in each step",
    "two views, two forwards",
)
_CLASSES, _SIDE, _COLUMNS = 6, 10, 16


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Patterns under noise."""
    g = seeded(seed)
    patterns = F.interpolate(torch.randn(_CLASSES, 3, 5, 5, generator=seeded(61)), size=(_SIDE, _SIDE), mode="bilinear")
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    return patterns[label] + 2.0 * torch.randn(n, 3, _SIDE, _SIDE, generator=g), label


def augmented(x: Tensor) -> Tensor:
    """Brighter or darker by image, coarse noise, and a square of white."""
    coarse = F.interpolate(torch.randn(len(x), 3, 5, 5), size=(_SIDE, _SIDE))
    changed = x * (0.3 + torch.rand(len(x), 1, 1, 1)) + 1.5 * coarse + 2.5
    row, column = torch.randint(0, _SIDE - 5, (2,)).tolist()
    changed[:, :, row : row + 5, column : column + 5] = 6.0
    return changed


def pictured(outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in [(3, 12), (12, 16), (16, 24)]:
        conv = nn.Conv2d(before, after, 3, 2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, outputs))


def mean_teacher(student: nn.Module, labelled: Sequence[Any], unlabelled: Sequence[Any], epochs: int) -> nn.Module:
    """Weights averaged over steps; its own buffers come from its forward in train(), on what is to be agreed upon."""
    teacher = copy.deepcopy(student).train()
    optimizer = torch.optim.Adam(student.parameters(), 5e-3)
    steps = epochs * len(labelled)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * t / steps)) / 2)
    student.train()
    for step in range(steps):
        (x, y), (other,) = labelled[step % len(labelled)], unlabelled[step % len(unlabelled)]
        with torch.no_grad():
            target = teacher(augmented(other)).softmax(1)
        agreement = (student(augmented(other)).softmax(1) - target).square().sum(1).mean()
        optimizer.zero_grad()
        (F.cross_entropy(student(x), y) + agreement).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
                average.lerp_(weight, max(1 / (step + 1), 0.05))
    return teacher.eval()


def tables(n: int, seed: int, *, other: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of a table; those of the other source have other means and units."""
    g = seeded(seed)
    places = torch.randn(_CLASSES, _COLUMNS, generator=seeded(62))
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    x = places[label] + 1.0 * torch.randn(n, _COLUMNS, generator=g)
    return (2.5 * x.flip(1) + 8 * torch.linspace(-1, 1, _COLUMNS) if other else x), label


def tabular() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in [(_COLUMNS, 32), (32, 32), (32, 32)]:
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(32, _CLASSES))


def with_a_pass(model: nn.Module, batch: Any) -> Tensor:
    """The loss, and a look at other data without gradients, still in train()."""
    x, y, other = batch
    with torch.no_grad():
        model(other)
    return F.cross_entropy(model(x), y)


class Views(nn.Module):
    """Both views through one encoder, each in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = pictured(16)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.encoder(first)), F.normalize(self.encoder(second))


def views(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two crops of one thing under noise, both drawn alike."""
    g = seeded(seed)
    thing = F.interpolate(torch.randn(n, 3, 4, 4, generator=g), size=(_SIDE + 2,) * 2, mode="bilinear")
    crops = thing.unfold(2, _SIDE, 1).unfold(3, _SIDE, 1)

    def view() -> Tensor:
        row, column = torch.randint(0, 3, (2, n), generator=g)
        crop = crops[torch.arange(n), :, row, column]
        return 60 + 25 * (crop + 0.5 * torch.randn(crop.shape, generator=g))

    return view(), view()


def both(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(batch[0], batch[1])


def found(output: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    """Is the nearest of all second views the right one? One number for each pair."""
    first, second = output
    return ((first @ second.T).argmax(1) == torch.arange(len(first))).double()


def contrasted(model: nn.Module, batch: Any) -> Tensor:
    first, second = both(model, batch)
    return F.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    score: Callable[[Any, Any], Tensor] = hit
    run: Callable[[nn.Module, Any], Any] = plainly
    model: nn.Module
    if variant == 0:
        training, held_out = cut(*images(1600, 260 + seed), size=32), cut(*images(960, 5260 + seed), size=32)
        unlabelled = cut(images(1600, 360 + seed)[0], size=32)
        model = mean_teacher(pictured(_CLASSES), training, unlabelled, epochs=5)
    elif variant == 1:
        train, (other, _) = tables(1600, 260 + seed), tables(1600, 360 + seed, other=True)
        training, held_out = cut(*train, size=32), cut(*tables(960, 5260 + seed), size=32)
        model = fit(tabular(), cut(*train, other, size=32), with_a_pass, seed=seed, epochs=4, rate=5e-3)
    else:
        score, run = found, both
        training, held_out = cut(*views(1600, 260 + seed), size=32), cut(*views(960, 5260 + seed), size=32)
        model = fit(Views(), training, contrasted, seed=seed, epochs=4, rate=5e-3)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.75, f"{reached:.3f} with statistics measured anew")
    healthy = variant == 2
    if healthy:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    else:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    first = frozenset[str]() if healthy else frozenset({"domain", "mixture"})
    # That a layer is called for each view may be said of the healthy one, as something that does no harm.
    called = frozenset({"called several times"} if healthy else ())
    return Situation(
        name="teacher and student",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": run},
        right=Expected(
            healthy=healthy,
            first=first,
            remedy=frozenset() if healthy else frozenset({"RepairStatistics"}),
            useless=frozenset({"RepairStatistics", "ChangeCode"} if healthy else {"Nothing", "Preprocess"}),
            # The teacher's statistics were taken with images that were changed at random.
            forbidden=UNTRUE - first - called - (frozenset() if variant else frozenset({"randomness"})),
            repair_gain=not healthy,
        ),
    )

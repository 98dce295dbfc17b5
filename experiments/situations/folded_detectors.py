"""A dense detector, boxes and classes in a dictionary, whose frozen batch norm is right: mostly folded into γ and β."""

from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import fit, measured, norms, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import truenorm as tn

VARIANTS = ("folded, held by truenorm.freeze", "folded, no gradients", "its own statistics, held by truenorm.freeze")
_CLASSES, _GRID, _SIDE = 3, 4, 16


def scenes(n: int, seed: int, size: int) -> list[tuple[Tensor, list[dict[str, Tensor]]]]:
    """One coloured square in each image; the targets are a list, as detectors take them."""
    g = seeded(seed)
    colours = torch.tensor([[1.6, -0.6, 0.1], [-0.5, 1.5, -0.3], [0.2, -0.4, 1.7]])
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    centre = torch.randint(3, _SIDE - 3, (n, 2), generator=g)
    half = torch.randint(2, 4, (n,), generator=g)
    grid = torch.arange(_SIDE)
    rows = (grid - centre[:, :1]).abs() <= half[:, None]
    columns = (grid - centre[:, 1:]).abs() <= half[:, None]
    inside = (rows[:, :, None] & columns[:, None]).float()[:, None]
    image = inside * colours[label][:, :, None, None] + 0.4 * torch.randn(n, 3, _SIDE, _SIDE, generator=g) + 0.4
    boxes = torch.cat([centre, half[:, None], half[:, None]], 1) / _SIDE
    targets = [{"box": box, "class": kind} for box, kind in zip(boxes, label, strict=True)]
    return [(part, targets[i * size : (i + 1) * size]) for i, part in enumerate(image.split(size))]


class Detector(nn.Module):
    """For each cell of a grid: a box, and which class's centre lies in it, or none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in [
            (3, width, 1),
            (width, 2 * width, 2),
            (2 * width, 2 * width, 2),
            (2 * width, 2 * width, 1),
        ]:
            conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.boxes, self.classes = nn.Conv2d(2 * width, 4, 1), nn.Conv2d(2 * width, _CLASSES + 1, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.backbone(images)
        return {"boxes": self.boxes(x).sigmoid(), "classes": self.classes(x)}


def cells(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, classes, and the cell of each centre."""
    boxes = torch.stack([target["box"] for target in batch[1]])
    label = torch.stack([target["class"] for target in batch[1]])
    row, column = (boxes[:, :2] * _GRID).long().unbind(1)
    return boxes, label, row * _GRID + column


def losses(output: dict[str, Tensor], batch: Any) -> Tensor:
    boxes, label, cell = cells(batch)
    wanted = torch.full((len(label), _GRID**2), _CLASSES)
    wanted[torch.arange(len(label)), cell] = label
    found = output["boxes"].flatten(2)[torch.arange(len(label)), :, cell]
    dense = F.cross_entropy(output["classes"].flatten(2), wanted, reduction="none").sum(1)
    return dense + 10 * (found - boxes).abs().sum(1)


def score(output: dict[str, Tensor], batch: Any) -> Tensor:
    """Is the likeliest cell's class the right one, and its box near? One number for each image."""
    boxes, label, _ = cells(batch)
    best = output["classes"].softmax(1)[:, :_CLASSES].flatten(1).argmax(1)
    found = output["boxes"].flatten(2)[torch.arange(len(label)), :, best % _GRID**2]
    near = (found - boxes).abs().amax(1) < 0.15
    return ((best // _GRID**2 == label) & near).double()


def run(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    return model(batch[0])


def folded(model: nn.Module) -> None:
    """γ and β take over what the statistics did: γ/σ and β − γ·mean/σ, behind mean 0 and variance 1."""
    with torch.no_grad():
        for layer in norms(model):
            assert layer.running_mean is not None and layer.running_var is not None
            factor = (layer.running_var + layer.eps).rsqrt()
            layer.bias -= layer.weight * layer.running_mean * factor
            layer.weight *= factor * (1 + layer.eps) ** 0.5
            layer.reset_running_stats()


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = scenes(1600, 80 + seed, 32), scenes(800, 5080 + seed, 32)
    model = Detector(8 + 2 * (seed % 2))
    fit(model, training, lambda net, b: losses(run(net, b), b).mean(), seed=seed, epochs=5, rate=1e-2)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    trained = measure(model)
    with torch.no_grad():
        before = run(model, held_out[0])["classes"]
    if variant != 2:
        folded(model)
    if variant != 1:
        tn.freeze(model)
    for value in (value for layer in norms(model) for value in layer.parameters()):
        value.requires_grad_(False)
    with torch.no_grad():
        apart = float((run(model, held_out[0])["classes"] - before).abs().max())
    reached = measure(model)
    require(apart < 1e-3, f"outputs move by {apart:.2g}")
    require(reached > 0.5 and abs(reached - trained) < 0.01, f"{reached:.3f} of the objects are found")
    return Situation(
        name="folded detector",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score},
        right=Expected(
            healthy=True,
            remedy=frozenset({"Nothing", "DiagnoseAgain", "Freeze"}),
            useless=frozenset({"RepairStatistics", "Preprocess", "RetrainWith"}),
            forbidden=NOT_PLANTED
            | {"never updated", "momentum 0", "missing_statistics", "frozen_wrong", "variance_not_updated", "scale"},
        ),
    )

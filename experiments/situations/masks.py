"""Dense prediction with an ignored label; the run had a small momentum, and what builds the network says another."""

from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("masks beside images", "output in a dictionary", "a third of the run's steps")
_CLASSES, _IGNORED = 4, 255
_SAID = 0.1


def scenes(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Two rectangles on a ground, borders and a strip unlabelled."""
    g = seeded(seed)
    side = 16
    mask = torch.zeros(n, side, side, dtype=torch.long)
    grid = torch.arange(side)
    for _ in range(2):
        low = torch.randint(0, 9, (n, 2), generator=g)
        high = low + torch.randint(4, 8, (n, 2), generator=g)
        kind = torch.randint(1, _CLASSES, (n, 1, 1), generator=g)
        rows = (grid >= low[:, :1]) & (grid < high[:, :1])
        columns = (grid >= low[:, 1:]) & (grid < high[:, 1:])
        mask = torch.where(rows[:, :, None] & columns[:, None], kind, mask)
    colours = torch.tensor([[0.0, 0.0, 0.0], [1.2, 0.2, -0.4], [0.1, 1.1, 0.5], [0.9, 0.9, -0.2]])
    image = colours[mask].permute(0, 3, 1, 2) + 0.9 * torch.randn(n, 3, side, side, generator=g)
    image = 0.3 * image + 0.45
    mask[:, :, :2] = _IGNORED
    mask = torch.where(torch.rand(n, side, side, generator=g) < 0.1, _IGNORED, mask)
    return [{"image": i, "mask": m} for i, m in zip(image.split(size), mask.split(size), strict=True)]


def block(before: int, after: int, momentum: float) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after, momentum=momentum), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, momentum: float = _SAID, *, named: bool = False) -> None:
        super().__init__()
        self.named = named
        self.down, self.low = block(3, 10, momentum), block(10, 20, momentum)
        self.bottom, self.up = block(20, 20, momentum), block(30, 12, momentum)
        self.head = nn.Conv2d(12, _CLASSES, 1)

    def forward(self, x: Tensor) -> Any:
        fine = self.down(x)
        coarse = self.bottom(self.low(F.max_pool2d(fine, 2)))
        joined = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)
        logits = self.head(self.up(joined))
        return {"out": logits} if self.named else logits


def logits_of(output: Any) -> Tensor:
    return output["out"] if isinstance(output, dict) else output


def score(output: Any, batch: Any) -> Tensor:
    """Share of the labelled pixels that are right, for each image."""
    counts = batch["mask"] != _IGNORED
    right = (logits_of(output).argmax(1) == batch["mask"]) & counts
    return right.flatten(1).sum(1) / counts.flatten(1).sum(1)


def run(model: nn.Module, batch: Any) -> Any:
    return model(batch["image"])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = scenes(400, 40 + seed, 8), scenes(300, 5040 + seed, 10)
    momentum = (0.003, 0.006, 0.01)[variant]
    epochs = (3.0, 3.0, 2.0)[variant]
    trained = UNet(momentum, named=variant == 1)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(logits_of(run(net, batch)), batch["mask"], ignore_index=_IGNORED)

    fit(trained, training, loss, seed=seed, epochs=epochs, rate=1e-2)
    model = UNet(named=variant == 1)
    model.load_state_dict(trained.state_dict())
    model.eval()

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    count = norms(model)[0].num_batches_tracked
    assert count is not None
    left = (1 - momentum) ** int(count)
    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(0.25 < left < 0.85, f"{left:.0%} of the initial values are left")
    require(reached > 0.75 and before < reached - 0.05, f"measured anew {reached:.3f} instead of {before:.3f}")
    return Situation(
        name="masks, small momentum",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score},
        right=Expected(
            healthy=False,
            first=frozenset({"initial values"}),
            remedy=frozenset({"RepairStatistics", "SetMomentum"}),
            forbidden=NOT_PLANTED - {"initial values"} | {"never updated", "momentum 0"},
            repair_gain=True,
        ),
    )

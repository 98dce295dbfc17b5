"""Clips: a backbone of frames, with time folded into the batch or in a loop, and an average over time."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, hit, measured, overwrite, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("time folded into the batch", "frame by frame", "frame by frame, one layer wrong")
_SCENES, _FRAMES, _SIDE = 5, 6, 12


def clips(n: int, seed: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """A texture that drifts over a frame, behind noise; which texture it is is the class."""
    g = seeded(seed)
    textures = F.interpolate(torch.randn(_SCENES, 3, 6, 6, generator=seeded(31)), size=(_SIDE, _SIDE), mode="bilinear")
    label = torch.randint(0, _SCENES, (n,), generator=g)
    start, step = torch.randint(0, _SIDE, (n,), generator=g), torch.randint(-1, 2, (n,), generator=g)
    columns = (
        torch.arange(_SIDE) + start[:, None, None] + step[:, None, None] * torch.arange(_FRAMES)[:, None]
    ) % _SIDE
    moved = textures[label][:, None].expand(-1, _FRAMES, -1, -1, -1)
    moved = moved.gather(4, columns[:, :, None, None].expand_as(moved))
    video = 90 + 40 * (moved + 3.0 * torch.randn(moved.shape, generator=g))
    return list(zip(video.split(size), label.split(size), strict=True))


class Clips(nn.Module):
    """Classes of clips: the mean over frames of what the backbone sees in each."""

    def __init__(self, *, folds: bool) -> None:
        super().__init__()
        self.folds = folds
        layers: list[nn.Module] = []
        for before, after, stride in [(3, 12, 1), (12, 16, 2), (16, 24, 2)]:
            conv = nn.Conv2d(before, after, 3, stride, padding=1, padding_mode="circular", bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.frames = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(24, _SCENES)

    def forward(self, video: Tensor) -> Tensor:
        if self.folds:
            seen = self.frames(video.flatten(0, 1)).unflatten(0, video.shape[:2])
        else:
            seen = torch.stack([self.frames(frame) for frame in video.unbind(1)], 1)
        return self.head(seen.mean(1))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = clips(640, 230 + seed, 16), clips(480, 5230 + seed, 16)
    model = Clips(folds=variant == 0)
    fit(model, training, loss, seed=seed, epochs=3, rate=1e-2)
    spoilt = variant == 2
    if spoilt:
        overwrite(model.frames[4], seed, by=1.5)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, hit, plainly)

    before, reached = measure(model), measure(recalibrated(model, training, plainly))
    require(reached > 0.8, f"{reached:.3f} with statistics measured anew")
    if spoilt:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    else:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    # That a layer is called for each frame may be said of the healthy one, as something that does no harm.
    called = frozenset({"called several times"})
    return Situation(
        name="video",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        right=Expected(
            healthy=not spoilt,
            first=frozenset({"overwritten", "lag"} if spoilt else ()),
            remedy=frozenset({"RepairStatistics"} if spoilt else ()),
            useless=frozenset(
                {"Nothing", "ChangeCode"} if spoilt else {"RepairStatistics", "ChangeCode", "RetrainWith"}
            ),
            forbidden=UNTRUE - (called if variant else frozenset()) - (frozenset({"lag"}) if spoilt else frozenset()),
            repair_gain=spoilt,
            named=frozenset({"frames.4"} if spoilt else ()),
        ),
    )

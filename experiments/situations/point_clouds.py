"""Point clouds of unequal size, all points of a batch in one tensor with the number of their cloud."""

import copy
from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("healthy", "one layer's buffers are of the first epoch", "momentum too small for the run")
_SHAPES, _WIDTH = 4, 32


def clouds(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Points near an ellipsoid with the reflectance of each; a shape has its axes. Lidar has metres: far from 0."""
    g = seeded(seed)
    axes = 0.6 + 1.2 * torch.rand(_SHAPES, 3, generator=seeded(11))
    batches: list[dict[str, Tensor]] = []
    for _ in range(n // size):
        label = torch.randint(0, _SHAPES, (size,), generator=g)
        cloud = torch.repeat_interleave(torch.arange(size), torch.randint(24, 72, (size,), generator=g))
        sphere = F.normalize(torch.randn(len(cloud), 3, generator=g))
        place = sphere * axes[label][cloud] + 0.15 * torch.randn(len(cloud), 3, generator=g)
        reflectance = 40 + 12 * place[:, :1] + 8 * torch.randn(len(cloud), 1, generator=g)
        points = torch.cat([3 * place + torch.tensor([8.0, 0.0, 1.5]), reflectance], 1)
        batches.append({"points": points, "cloud": cloud, "label": label})
    return batches


class PointNet(nn.Module):
    """Maps of each point, the maximum over each cloud's points, and a head with a norm over clouds."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in [(4, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, 64)]:
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, momentum=momentum), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        head = [nn.Linear(64, _WIDTH, bias=False), nn.BatchNorm1d(_WIDTH, momentum=momentum), nn.ReLU()]
        self.head = nn.Sequential(*head, nn.Linear(_WIDTH, _SHAPES))

    def forward(self, points: Tensor, cloud: Tensor, count: int) -> Tensor:
        x = self.points(points)
        pooled = x.new_zeros(count, x.shape[1])
        return self.head(pooled.scatter_reduce(0, cloud[:, None].expand_as(x), x, "amax"))


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["points"], batch["cloud"], len(batch["label"]))


def score(output: Tensor, batch: Any) -> Tensor:
    """Is a cloud's shape right?"""
    return (output.argmax(1) == batch["label"]).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(run(model, batch), batch["label"])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = clouds(1600, 200 + seed, 32), clouds(800, 5200 + seed, 25)
    model = PointNet(0.006 if variant == 2 else 0.1)
    if variant == 1:
        fit(model, training, loss, seed=seed, epochs=1, rate=1e-2)
        early = copy.deepcopy(dict(model.points[4].named_buffers()))
        fit(model, training, loss, seed=seed + 1, epochs=4, rate=2e-2)
        model.points[4].load_state_dict(early, strict=False)  # as if two files were merged
    else:
        fit(model, training, loss, seed=seed, epochs=3 if variant == 2 else 5, rate=1e-2)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.8, f"{reached:.3f} with statistics measured anew")
    if variant == 0:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    else:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    if variant == 2:
        count = norms(model)[0].num_batches_tracked
        assert count is not None
        left = 0.994 ** int(count)
        require(0.2 < left < 0.85, f"{left:.0%} of the initial values are left")
    first = (frozenset[str](), frozenset({"lag", "overwritten"}), frozenset({"initial values"}))[variant]
    return Situation(
        name="point clouds",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": run},
        right=Expected(
            healthy=variant == 0,
            first=first,
            # A small momentum is what the initial values come from.
            remedy=frozenset({"RepairStatistics", "SetMomentum"} if variant else ()),
            useless=frozenset({"Nothing", "Preprocess"} if variant else {"RepairStatistics", "Preprocess"}),
            forbidden=UNTRUE - first - (frozenset({"momentum"}) if variant == 2 else frozenset()),
            repair_gain=variant != 0,
            named=frozenset({"points.4"} if variant == 1 else ()),
        ),
    )

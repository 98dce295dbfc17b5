"""A 3-D convnet for volumes, restored from a file that has parameters and no buffers."""

import copy
from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, hit, measured, norms, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("all layers", "volumes in dictionaries", "all but the stem")
_CLASSES = 5


def volumes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A blob in noise, stretched along an axis, a diagonal, or round."""
    g = seeded(seed)
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    axis = torch.linspace(-1, 1, 8)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    place = 0.25 * torch.randn(n, 3, generator=g)
    dz, dy, dx = (grid - place[:, i, None, None, None] for i, grid in enumerate((z, y, x)))
    forms = torch.stack(
        [dz**2 / 9 + dy**2 + dx**2, dz**2 + dy**2 / 9 + dx**2, dz**2 + dy**2 + dx**2 / 9, (dz - dy) ** 2 + dx**2,
         dz**2 / 3 + dy**2 / 3 + dx**2 / 3]
    )  # fmt: skip
    blob = (-4 * forms[label, torch.arange(n)]).exp()[:, None]
    return 3 * blob + 0.8 * torch.randn(n, 1, 8, 8, 8, generator=g) + 1, label


def network(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, stride in [(1, width, 1), (width, width, 2), (width, 2 * width, 2)]:
        layers += [nn.Conv3d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, _CLASSES))


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = cut(*volumes(800, 20 + seed), size=16), cut(*volumes(800, 5020 + seed), size=40)
    model = network(6)
    fit(model, training, lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]), seed=seed, epochs=3, rate=1e-2)
    options: dict[str, Any] = {}
    if variant == 1:
        options = {
            "forward": lambda net, batch: net(batch["volume"]),
            "score": lambda output, batch: (output.argmax(1) == batch["form"]).double(),
        }

    def as_given(batches: list[Any]) -> list[Any]:
        return [{"volume": volume, "form": form} for volume, form in batches] if variant == 1 else batches

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, hit, plainly)

    trained = measure(model)
    weights = dict(model.named_parameters())
    fresh = network(6)
    if variant == 2:
        weights |= {name: value for name, value in model.state_dict().items() if name.startswith("1.")}
    fresh.load_state_dict(copy.deepcopy(weights), strict=False)
    fresh.eval()
    require(len(norms(fresh)) == 3, f"{len(norms(fresh))} batch norms")
    before, reached = measure(fresh), measure(recalibrated(fresh, training, plainly))
    require(trained > 0.75 and reached > trained - 0.04, f"trained to {trained:.3f}, measured anew {reached:.3f}")
    require(before < trained - 0.15, f"without buffers it still has {before:.3f} of {trained:.3f}")
    return Situation(
        name="weights-only volumes",
        variant=VARIANTS[variant],
        seed=seed,
        model=fresh,
        data=as_given(held_out),
        training=as_given(training),
        measure=measure,
        reached=reached,
        options=options,
        right=Expected(
            healthy=False,
            first=frozenset({"missing_statistics", "never updated"}),
            remedy=frozenset({"RepairStatistics", "ChangeCode"}),
            forbidden=NOT_PLANTED - {"initial values"} | {"momentum 0", "track_running_stats"},
            repair_gain=True,
        ),
    )

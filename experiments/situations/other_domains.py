"""Two domains in one network: through one batch norm in turn, or each through its own."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("one norm, two forwards in a step", "a norm for each domain", "a norm for each, one never trained")
_CLASSES, _SIDE = 5, 10


def pictures(n: int, seed: int, domain: int, size: int = 32) -> list[dict[str, Tensor]]:
    """Patterns under noise; the second domain's camera has another gain and black level in each channel."""
    g, fixed = seeded(seed), seeded(51)
    patterns = F.interpolate(torch.randn(_CLASSES, 3, 5, 5, generator=fixed), size=(_SIDE, _SIDE), mode="bilinear")
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    image = patterns[label] + 2.6 * torch.randn(n, 3, _SIDE, _SIDE, generator=g)
    if domain:
        gain, level = torch.tensor([0.4, 2.5, 1.2]), torch.tensor([8.0, -14.0, 9.0])
        image = gain[:, None, None] * image + level[:, None, None]
    which = torch.full((n,), domain)
    parts = zip(image.split(size), which.split(size), label.split(size), strict=True)
    return [{"image": i, "domain": d, "label": y} for i, d, y in parts]


class Shared(nn.Module):
    """One batch norm for all domains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        return self.norm(x)


class ByDomain(nn.Module):
    """Statistics of each domain, with γ and β that they share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(width, affine=False) for _ in range(2)])
        self.gamma, self.beta = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor, domain: int) -> Tensor:
        return self.gamma * self.norms[domain](x) + self.beta


class Network(nn.Module):
    def __init__(self, norm: type[Shared] | type[ByDomain]) -> None:
        super().__init__()
        widths = [(3, 12), (12, 16), (16, 24)]
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, 2, padding=1, bias=False) for before, after in widths])
        self.norms = nn.ModuleList([norm(after) for _, after in widths])
        self.head = nn.Linear(24 * 4, _CLASSES)

    def forward(self, image: Tensor, domain: int) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            image = F.relu(norm(conv(image), domain))
        return self.head(image.flatten(1))


def run(model: nn.Module, batch: Any) -> Tensor:
    """A batch is of one domain."""
    return model(batch["image"], int(batch["domain"][0]))


def score(output: Tensor, batch: Any) -> Tensor:
    return (output.argmax(1) == batch["label"]).double()


def learned(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(run(model, batch), batch["label"])


def adapted(model: nn.Module, batch: Any) -> Tensor:
    """Labels of the source; of the target only that noise is to change nothing: a second forward in each step."""
    source, target = batch
    image = target["image"]
    noisy = image + 0.1 * image.std() * torch.randn_like(image)
    twice = run(model, target | {"image": torch.cat([image, noisy])})
    first, second = twice.softmax(1).chunk(2)
    return learned(model, source) + (first - second).square().sum(1).mean()


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    sources, targets = (pictures(1600, 250 + seed + 100 * domain, domain) for domain in range(2))
    held_out = pictures(640, 5250 + seed, 0)
    if variant == 0:
        model, training = Network(Shared), sources
        fit(model, list(zip(sources, targets, strict=True)), adapted, seed=seed, epochs=4, rate=5e-3)
    else:
        model, training = Network(ByDomain), [batch for pair in zip(sources, targets, strict=True) for batch in pair]
        second = pictures(640, 5350 + seed, 1)
        held_out = [batch for pair in zip(held_out, second, strict=True) for batch in pair]
        fit(model, sources if variant == 2 else training, learned, seed=seed, epochs=3, rate=5e-3)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.8, f"{reached:.3f} with statistics measured anew")
    if variant == 1:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    else:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    if variant == 2:
        counts = [int(layer.num_batches_tracked or 0) for layer in norms(model)]
        require([count > 0 for count in counts] == [True, False] * 3, f"batches counted: {counts}")
    first = (frozenset({"mixture", "domain"}), frozenset[str](), frozenset({"never updated"}))[variant]
    names = frozenset({f"norms.{i}.norms.1" for i in range(3)})
    return Situation(
        name="several domains",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": run},
        right=Expected(
            healthy=variant == 1,
            first=first,
            remedy=frozenset() if variant == 1 else frozenset({"RepairStatistics"}),
            useless=frozenset({"RepairStatistics", "ChangeCode"} if variant == 1 else {"Nothing", "Preprocess"}),
            # What was never updated holds initial values; that may be said in these words, too.
            forbidden=UNTRUE - first - (frozenset({"initial values"}) if variant == 2 else frozenset()),
            repair_gain=variant != 1,
            named=names if variant == 2 else frozenset(),
        ),
    )

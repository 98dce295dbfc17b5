"""A classifier of colour images that gets them otherwise than in training: other statistics are not what it needs."""

from collections.abc import Callable

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, hit, measured, plainly, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("0 to 255 for 0 to 1", "blue first for red first", "negatives")
_MEAN = torch.tensor([0.62, 0.45, 0.28])
_CLASSES = 6


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """In 0 to 1: a warm tint, and a stripe of a hue, upright or level; the class is both."""
    g = seeded(seed)
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    hues = torch.tensor([[0.16, -0.04, -0.08], [-0.10, 0.12, -0.03], [-0.12, -0.04, 0.12]])
    place = torch.randint(0, 9, (n, 1), generator=g)
    inside = ((torch.arange(12) >= place) & (torch.arange(12) < place + 4)).float()[:, None, None]
    stripe = torch.where((label % 2 == 0)[:, None, None, None], inside, inside.transpose(2, 3))
    colour = hues[label // 2][:, :, None, None]
    noise = torch.randn(n, 3, 12, 12, generator=g) * torch.tensor([0.16, 0.12, 0.08])[:, None, None]
    return (_MEAN[:, None, None] + stripe * colour + noise).clamp(0, 1), label


class Classifier(nn.Module):
    """Three convolutions with batch norm; the head sees the pooled image, too, which no batch norm touches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in [(3, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)]:
            conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width + 3, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        return self.head(torch.cat([x.mean((2, 3)), images.mean((2, 3))], 1))


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    change: Callable[[Tensor], Tensor] = (lambda x: 255 * x, lambda x: x.flip(1), lambda x: 1 - x)[variant]

    training, right = cut(*images(1600, 90 + seed), size=32), cut(*images(1000, 5090 + seed), size=50)
    model = Classifier(10)
    fit(model, training, lambda net, b: F.cross_entropy(net(b[0]), b[1]), seed=seed, epochs=4, rate=1e-2)
    training, held_out = ([(change(x), y) for x, y in part] for part in (training, right))

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, hit, plainly)

    trained = measured(model, right, hit, plainly)
    before, repaired = measure(model), measure(recalibrated(model, training, plainly))
    require(trained > 0.8, f"trained to {trained:.3f}")
    require(before < trained - 0.15, f"with such images still {before:.3f} of {trained:.3f}")
    require(repaired < trained - 0.1, f"other statistics reach {repaired:.3f} of {trained:.3f}")
    return Situation(
        name="other inputs",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=trained,
        right=Expected(
            healthy=False,
            first=frozenset({"preprocessing", "channel_order"} if variant == 1 else {"preprocessing"}),
            remedy=frozenset() if variant == 1 else frozenset({"Preprocess"}),
            useless=frozenset({"RepairStatistics", "Nothing", "RetrainWith"}),
            # That these data are unlike those of the statistics is no answer, and is true.
            forbidden=NOT_PLANTED - {"preprocessing", "domain"} | {"scale", "labels"},
        ),
    )

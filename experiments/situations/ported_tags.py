"""A multi-label network with what gets lost between frameworks: a variance, a γ, the sense of the momentum."""

from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("variances were never updated", "γ was not used in training", "momentum in Keras's sense")
_TAGS = 8


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Each tag adds its pattern; about a third of them are there."""
    g = seeded(seed)
    patterns = torch.randn(_TAGS, 3, 8, 8, generator=seeded(77))
    tags = (torch.rand(n, _TAGS, generator=g) < 0.35).float()
    image = torch.einsum("nt,tchw->nchw", tags, patterns)
    return 0.4 * image + torch.randn(n, 3, 8, 8, generator=g) + 0.5, tags


def network(momentum: float) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, stride in [(3, 16, 1), (16, 24, 2), (24, 24, 2)]:
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after, momentum=momentum), nn.ReLU()]
    dense = [nn.Flatten(), nn.Linear(96, 48, bias=False), nn.BatchNorm1d(48, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers, *dense, nn.Linear(48, _TAGS))


def score(output: Tensor, batch: Any) -> Tensor:
    """Share of the tags that are right, for each picture."""
    return ((output > 0) == (batch[1] > 0.5)).double().mean(1)


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    size = 4 if variant == 2 else 32
    training, held_out = cut(*pictures(1600, 50 + seed), size=size), cut(*pictures(800, 5050 + seed), size=32)
    model = network(0.99 if variant == 2 else 0.1)
    if variant == 1:
        for layer in norms(model):
            layer.weight.requires_grad_(False)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(run(net, batch), batch[1])

    fit(model, training, loss, seed=seed, epochs=2 if variant == 2 else 4, rate=5e-3)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    trained = measure(recalibrated(model, training, run))
    g = seeded(seed)
    for layer in norms(model):
        assert layer.running_var is not None
        if variant == 0:
            layer.running_var.fill_(1)
        elif variant == 1:
            layer.weight.data.uniform_(0.02, 0.5, generator=g)
            layer.weight.requires_grad_(True)
    before, again = measure(model), measure(recalibrated(model, training, run))
    require(trained > 0.85, f"trained to {trained:.3f}")
    require(before < trained - 0.04, f"it still has {before:.3f} of {trained:.3f}")
    if variant == 1:
        require(again < trained - 0.03, f"other statistics alone reach {again:.3f} of {trained:.3f}")
    cause = ("variance_not_updated", "gamma_unused", "momentum")[variant]
    return Situation(
        name="ported tags",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=again,
        options={"score": score},
        right=Expected(
            healthy=False,
            first=frozenset({cause}),
            # With γ in the wrong the first thing to do is to set it right.
            remedy=frozenset() if variant == 1 else frozenset({"RepairStatistics", "SetMomentum"}),
            useless=frozenset({"Nothing", "Preprocess", "Freeze", "RetrainWith"}),
            # Half of what is stored is initial where the variances are: that is not untrue.
            forbidden=NOT_PLANTED - {cause, "initial values"} if variant == 0 else NOT_PLANTED - {cause},
            repair_gain=variant != 1,
        ),
    )

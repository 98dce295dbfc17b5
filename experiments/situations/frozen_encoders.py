"""A self-supervised encoder, without labels, that is held still with statistics that are not right."""

import copy
from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import cut, fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import truenorm as tn

VARIANTS = (
    "buffers of before fine-tuning, held by truenorm.freeze",
    "momentum 0 in fine-tuning",
    "weights frozen, statistics free",
)


def views(n: int, seed: int, contrast: float = 0.3, offset: float = 0.8) -> tuple[Tensor, Tensor]:
    """Two noisy crops of one thing."""
    g = seeded(seed)
    thing = F.interpolate(torch.randn(n, 3, 4, 4, generator=g), scale_factor=3.0, mode="bilinear")

    crops = thing.unfold(2, 10, 1).unfold(3, 10, 1)  # each 10 × 10 of 12 × 12

    def view() -> Tensor:
        row, column = torch.randint(0, 3, (2, n), generator=g)
        crop = crops[torch.arange(n), :, row, column]
        return contrast * (crop + 0.5 * torch.randn(crop.shape, generator=g)) + offset

    return view(), view()


def encoder(momentum: float) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, stride in [(3, 16, 1), (16, 32, 2), (32, 32, 2)]:
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def network(momentum: float) -> nn.Module:
    head = [nn.Linear(128, 64, bias=False), nn.BatchNorm1d(64, momentum=momentum), nn.ReLU(), nn.Linear(64, 16)]
    parts = {"encoder": encoder(momentum), "head": nn.Sequential(*head)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Both views in one batch, as training has them."""
    first, second = F.normalize(model(torch.cat([batch[0], batch[1]]))).chunk(2)
    return first, second


def score(output: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    """Is the nearest of all second views the right one? One number for each pair."""
    first, second = output
    return ((first @ second.T).argmax(1) == torch.arange(len(first))).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    first, second = forward(model, batch)
    return F.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = cut(*views(1600, 70 + seed), size=32), cut(*views(960, 5070 + seed), size=32)
    other = cut(*views(960, 170 + seed, contrast=0.8, offset=1.6), size=32)
    model = network(0.1)
    if variant < 2:
        fit(model, other, loss, seed=seed, epochs=2)
        before = copy.deepcopy(dict(model.named_buffers()))
        if variant == 1:
            for layer in norms(model):
                layer.momentum = 0.0
        fit(model, training, loss, seed=seed, epochs=2)
        model.load_state_dict(before, strict=False)
        if variant == 0:
            tn.freeze(model)
    else:
        fit(model, training, loss, seed=seed, epochs=3)
        for value in model[0].parameters():  # type: ignore[index]  # a Sequential
            value.requires_grad_(False)
        fit(model, other, loss, seed=seed, epochs=1, rate=1e-4)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, forward)

    mended = recalibrated(model, training, forward)
    if variant == 0:  # frozen layers do not leave eval(): measured on a copy that was thawed
        thawed = network(0.1)
        thawed.load_state_dict(model.state_dict())
        mended = recalibrated(thawed, training, forward)
    as_is, reached = measure(model), measure(mended)
    require(reached > 0.5, f"{reached:.3f} of the pairs are found with statistics of these views")
    require(as_is < reached - 0.05, f"{as_is:.3f} of the pairs are found as it is, {reached:.3f} measured anew")
    first = (
        # What is stored is of other views and of weights before these; in the second the momentum is 0.
        frozenset({"frozen_wrong", "domain", "lag"}),
        frozenset({"frozen_wrong", "domain", "lag", "momentum 0"}),
        frozenset({"frozen_wrong", "frozen parameters"}),
    )[variant]
    return Situation(
        name="frozen encoder, wrong",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": forward},
        right=Expected(
            healthy=False,
            first=first,
            useless=frozenset({"Nothing", "Preprocess", "RetrainWith"}),
            forbidden=(NOT_PLANTED | {"never updated", "called several times"})
            - first
            # In the third the data of the last pass were of another contrast: that is a domain, too.
            - (frozenset({"domain"}) if variant == 2 else frozenset()),
            repair_gain=variant != 0,  # `repair` leaves alone what `truenorm.freeze` holds
        ),
    )

"""Batches of one volume, as volumes fill a memory: batch norm divides each volume by itself, as instance norm does."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import by_batch, fit, measured, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("scans of any contrast", "photographs of any exposure, to restore", "patches that are alike")
_TISSUES, _SIDE, _PIXELS = 3, 12, 24
_MOMENTUM = 0.02  # an average over a hundred batches: what is stored is no accident of the last few


def scans(n: int, seed: int, spread: float) -> list[tuple[Tensor, Tensor]]:
    """One volume and its mask in a batch; each scanner has its gain and its offset, by `spread`."""
    g = seeded(seed)
    made: list[tuple[Tensor, Tensor]] = []
    for _ in range(n):
        smooth = F.interpolate(torch.randn(1, 1, 4, 4, 4, generator=g), size=(_SIDE,) * 3, mode="trilinear")
        ranks = smooth.flatten().argsort().argsort().reshape(1, _SIDE, _SIDE, _SIDE)
        mask = ranks * _TISSUES // _SIDE**3  # every volume has as much of each tissue
        volume = mask[:, None] - 1 + 0.7 * torch.randn(1, 1, _SIDE, _SIDE, _SIDE, generator=g)
        gain, offset = torch.randn(2, generator=g)
        made.append(((spread * gain).exp() * (volume + 4 * spread * offset), mask))
    return made


def photographs(n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """A noisy picture of any exposure, and the same clean, between −1 and 1."""
    g = seeded(seed)
    made: list[tuple[Tensor, Tensor]] = []
    for _ in range(n):
        clean = F.interpolate(torch.randn(1, 2, 6, 6, generator=g), size=(_PIXELS, _PIXELS), mode="bilinear")
        clean = ((clean - clean.mean((2, 3), keepdim=True)) / clean.std((2, 3), keepdim=True)).tanh()
        gain, offset = torch.randn(2, generator=g)
        noisy = clean + 0.3 * torch.randn(clean.shape, generator=g)
        made.append(((0.7 * gain).exp() * (noisy + 4 * offset), clean))
    return made


def network(conv: Any, norm: Any, inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in [(inputs, 8), (8, 8), (8, 8)]:
        mapped = conv(before, after, 3, padding=1, padding_mode="replicate", bias=False)
        layers += [mapped, norm(after, momentum=_MOMENTUM), nn.ReLU()]
    return nn.Sequential(*layers, conv(8, outputs, 1))


def right_voxels(output: Tensor, batch: Any) -> Tensor:
    """Share of a volume's voxels that are right."""
    return (output.argmax(1) == batch[1]).double().flatten(1).mean(1)


def nearness(output: Tensor, batch: Any) -> Tensor:
    """Share of a picture's values that are near to the clean ones."""
    return ((output - batch[1]).abs() < 0.25).double().flatten(1).mean(1)


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    restored = variant == 1
    if restored:
        training, held_out = photographs(400, 220 + seed), photographs(120, 5220 + seed)
        model = network(nn.Conv2d, nn.BatchNorm2d, 2, 2)
    else:
        spread = 0.0 if variant == 2 else 0.8
        training, held_out = scans(160, 220 + seed, spread), scans(80, 5220 + seed, spread)
        model = network(nn.Conv3d, nn.BatchNorm3d, 1, _TISSUES)
    score = nearness if restored else right_voxels

    def loss(net: nn.Module, batch: Any) -> Tensor:
        output = run(net, batch)
        return F.mse_loss(output, batch[1]) if restored else F.cross_entropy(output, batch[1])

    fit(model, training, loss, seed=seed, epochs=2, rate=1e-2)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, anew = measure(model), measure(recalibrated(model, training, run))
    with by_batch(model):
        one_by_one = measured(model, held_out, score, run)
    require(one_by_one > 0.8, f"{one_by_one:.3f} each by itself in train()")
    alike = variant == 2
    if alike:
        require(abs(anew - before) < 0.01, f"{before:.3f} as it is, {anew:.3f} measured anew: not healthy")
        require(abs(one_by_one - before) < 0.02, f"{before:.3f} as it is, {one_by_one:.3f} each by itself")
    else:
        require(
            max(before, anew) < one_by_one - 0.15, f"{before:.3f} as it is, {anew:.3f} anew, {one_by_one:.3f} alone"
        )
    return Situation(
        name="volumes in patches",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=one_by_one,
        options={"score": score},
        right=Expected(
            healthy=alike,
            first=frozenset() if alike else frozenset({"batches of one"}),
            # No stored statistics fit volumes of any contrast, nor does one preprocessing.
            useless=frozenset({"RepairStatistics", "Preprocess", *(("RetrainWith",) if alike else ())}),
            # A batch of the first two is unlike the whole, an average over some of them is noise: true, and that cannot
            # be mended. In the third the noise does no harm.
            forbidden=UNTRUE
            - ({"sampling noise"} if alike else {"batches of one", "tiny batches", "sampling noise", "momentum"}),
            repair_gain=False,
        ),
    )

"""Sentences of unequal length, padded to one; batch norm over positions counts the padded ones, too."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, measured, norms, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("padded to the longest", "statistics of batches padded to 96", "momentum too small for the run")
_WORDS, _CLASSES, _WIDTH = 60, 3, 40


def sentences(n: int, seed: int, size: int, padded_to: int = 0) -> list[dict[str, Tensor]]:
    """Words of three groups; a class is which group mostly follows which. Word 0 pads."""
    g = seeded(seed)
    made: list[dict[str, Tensor]] = []
    for _ in range(n // size):
        label = torch.randint(0, _CLASSES, (size,), generator=g)
        length = torch.randint(5, 17, (size,), generator=g)
        step = torch.where(
            torch.rand(size, 16, generator=g) < 0.75, label[:, None], torch.randint(3, (size, 16), generator=g)
        )
        words = 1 + step.cumsum(1) % 3 + 3 * torch.randint(_WORDS // 3, (size, 16), generator=g)
        words = words.masked_fill(torch.arange(16) >= length[:, None], 0)[:, : int(length.max())]
        words = F.pad(words, (0, max(0, padded_to - words.shape[1])))
        made.append({"tokens": words, "lengths": length, "label": label})
    return made


def vectors() -> Tensor:
    """Vectors of words as they come from other texts: all of them lie in one direction, and padding is at 0."""
    g = seeded(42)
    common = 2 * torch.randn(_WIDTH, generator=g)
    return (common + torch.randn(_WORDS + 1, _WIDTH, generator=g)).index_fill(0, torch.tensor([0]), 0.0)


class Orders(nn.Module):
    """Two normalised convolutions over words, the mean over the words that are there, and classes."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(vectors(), padding_idx=0)
        self.convs = nn.ModuleList([nn.Conv1d(_WIDTH, _WIDTH, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(_WIDTH, momentum=momentum) for _ in range(2)])
        self.head = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        there = (torch.arange(tokens.shape[1]) < lengths[:, None])[:, None]
        x = self.words(tokens).transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return self.head((x * there).sum(2) / lengths[:, None])


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["tokens"], batch["lengths"])


def score(output: Tensor, batch: Any) -> Tensor:
    """The logarithm of the likelihood of a sentence's class."""
    return -F.cross_entropy(output, batch["label"], reduction="none")


def correct(output: Tensor, batch: Any) -> Tensor:
    return (output.argmax(1) == batch["label"]).double()


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = sentences(3200, 240 + seed, 32), sentences(960, 5240 + seed, 32)
    model: nn.Module = Orders(0.0006 if variant == 2 else 0.1)
    fit(
        model,
        training,
        lambda net, b: -score(run(net, b), b).mean(),
        seed=seed,
        epochs=8 if variant != 2 else 4,
        rate=1e-2,
    )
    if variant == 1:  # a pass that measured the statistics anew, behind another collate function
        model = recalibrated(model, sentences(3200, 240 + seed, 32, padded_to=96), run)
        for layer in norms(model):
            layer.momentum = 0.1

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, correct, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.75, f"{reached:.3f} with statistics measured anew")
    if variant == 0:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    else:
        require(before < reached - 0.08, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    if variant == 2:
        count = norms(model)[0].num_batches_tracked
        assert count is not None
        left = 0.9994 ** int(count)
        require(0.2 < left < 0.85, f"{left:.0%} of the initial values are left")
    first = (
        frozenset[str](),
        frozenset({"padding", "domain", "mixture"}),  # positions that hold nothing, mixed with those that do
        frozenset({"initial values"}),
    )[variant]
    return Situation(
        name="ragged text",
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
            remedy=frozenset({"RepairStatistics", "SetMomentum"} if variant else ()),
            useless=frozenset({"Nothing", "Preprocess"} if variant else {"RepairStatistics", "Preprocess"}),
            forbidden=UNTRUE - first - (frozenset({"momentum"}) if variant == 2 else frozenset()),
            repair_gain=variant != 0,
        ),
    )

"""Taggers of sequences, batch norm over (batch, channel, length), with randomness of their own in training."""

import copy
from typing import Any

import torch
from situations.situation import NOT_PLANTED, Expected, Situation, require
from situations.training import by_batch, fit, measured, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("F.dropout on the input", "masked frames, noise, dropped paths", "F.dropout behind the last norm")
_BANDS, _TAGS, _LENGTH, _WIDTH, _IGNORED = 10, 5, 12, 32, -100


def recordings(n: int, seed: int) -> list[dict[str, Tensor]]:
    """Frames of bands as a spectrogram has them, far from 0; a tag depends on its frame and on the one before."""
    g = seeded(seed)
    places = 0.8 * torch.randn(_TAGS, _BANDS, generator=seeded(66))
    sounds = torch.randint(0, _TAGS, (n, _LENGTH), generator=g)
    before = F.pad(sounds, (1, 0))[:, :-1]
    frames = places[sounds] + 0.7 * torch.randn(n, _LENGTH, _BANDS, generator=g) - 4
    tags = (sounds + (before == 1).long()) % _TAGS
    padded = torch.arange(_LENGTH) >= torch.randint(6, _LENGTH + 1, (n, 1), generator=g)
    tags = tags.masked_fill(padded, _IGNORED)
    return [{"frames": f, "tags": t} for f, t in zip(frames.split(32), tags.split(32), strict=True)]


class ByChannel(nn.Module):
    """BatchNorm1d for (batch, length, channel)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Recurrent(nn.Module):
    """Two normalised maps of frames, a GRU, a third; dropout is a function, and no module says so."""

    def __init__(self, first: float, last: float) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.maps = nn.ModuleList([nn.Linear(width, _WIDTH) for width in (_BANDS, _WIDTH, _WIDTH)])
        self.norms = nn.ModuleList([ByChannel(_WIDTH) for _ in range(3)])
        self.gru = nn.GRU(_WIDTH, _WIDTH, batch_first=True)
        self.head = nn.Linear(_WIDTH, _TAGS)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.first, self.training)
        x = F.relu(self.norms[0](self.maps[0](x)))
        x = F.relu(self.norms[1](self.maps[1](x)))
        x, _ = self.gru(x)
        x = F.relu(self.norms[2](self.maps[2](x)))
        return self.head(F.dropout(x, self.last, self.training))


class Attentive(nn.Module):
    """Self-attention with batch norm for layer norm; in training frames are masked, noisy, and branches dropped."""

    def __init__(self, masked: float, noise: float, paths: float) -> None:
        super().__init__()
        self.masked, self.noise, self.paths = masked, noise, paths
        self.now, self.before = nn.Linear(_BANDS, _WIDTH), nn.Linear(_BANDS, _WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(_LENGTH, _WIDTH))
        self.attention = nn.MultiheadAttention(_WIDTH, 4, batch_first=True)
        self.maps = nn.Sequential(nn.Linear(_WIDTH, 64), nn.ReLU(), nn.Linear(64, _WIDTH))
        self.norms = nn.ModuleList([ByChannel(_WIDTH) for _ in range(3)])
        self.head = nn.Linear(_WIDTH, _TAGS)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = (x + self.noise * torch.randn_like(x)) * (torch.rand(*x.shape[:2], 1) > self.masked)
        x = self.norms[0](self.now(x) + self.before(F.pad(x, (0, 0, 1, 0))[:, :-1]) + self.places)
        x = self.norms[1](x + self._kept(self.attention(x, x, x, need_weights=False)[0]))
        x = self.norms[2](x + self._kept(self.maps(x)))
        return self.head(x)

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        return branch * (torch.rand(len(branch), 1, 1) > self.paths) / (1 - self.paths)


def score(output: Tensor, batch: Any) -> Tensor:
    """Share of the tags of a recording that are right."""
    counts = batch["tags"] != _IGNORED
    return ((output.argmax(2) == batch["tags"]) & counts).sum(1) / counts.sum(1)


def forward(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["frames"])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    training, held_out = recordings(1600, 30 + seed), recordings(800, 5030 + seed)
    model: nn.Module
    if variant == 0:
        model = Recurrent(first=0.3, last=0.0)
    elif variant == 1:
        model = Attentive(masked=0.5, noise=1.5, paths=0.3)
    else:
        model = Recurrent(first=0.0, last=0.5)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(forward(net, batch).transpose(1, 2), batch["tags"], ignore_index=_IGNORED)

    fit(model, training, loss, seed=seed, epochs=5, rate=1e-2)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, forward)

    before, reached = measure(model), measure(recalibrated(model, training, forward))
    with by_batch(model):
        batch_wise = measured(model, held_out, score, forward)
    harmless = variant == 2
    require(batch_wise > 0.6, f"{batch_wise:.3f} with the statistics of batches")
    if harmless:
        require(abs(reached - before) < 0.01, f"measured anew {reached:.3f} instead of {before:.3f}: it does harm")
        noisy = measured(copy.deepcopy(model).train(), held_out, score, forward)
        require(noisy < before - 0.005, f"{noisy:.3f} in train(), {before:.3f} in eval(): nothing is random")
    else:
        require(reached > before + 0.03, f"measured anew {reached:.3f} instead of {before:.3f}: no harm")
    return Situation(
        name="tagger with randomness",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": forward},
        right=Expected(
            healthy=harmless,
            first=frozenset() if harmless else frozenset({"randomness", "dropout"}),
            remedy=frozenset({"Nothing", "ChangeTraining"} if harmless else {"RepairStatistics"}),
            # That data are unlike those of the statistics, by noise or augmentation say, does not hit it and is true.
            forbidden=NOT_PLANTED if harmless else NOT_PLANTED - {"dropout", "domain"},
            repair_gain=not harmless,
        ),
    )

"""Message passing on graphs: nodes are labelled, a batch is a graph or several side by side, and cannot be cut."""

from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, measured, overwrite, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("four graphs in a batch", "one layer's variances are wrong", "trained on batches of one graph")
_KINDS, _FEATURES, _WIDTH = 4, 6, 24


def graph(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """People who know others of their kind, and what is known of each, with much noise; kinds are to be found."""
    count = int(torch.randint(50, 110, (1,), generator=g))
    kind = torch.randint(0, _KINDS, (count,), generator=g)
    alike = kind[:, None] == kind
    known = torch.rand(count, count, generator=g) < torch.where(alike, 0.2, 0.02)
    places = torch.randn(_KINDS, _FEATURES, generator=seeded(21))
    features = 30 + 10 * (places[kind] + 2.0 * torch.randn(count, _FEATURES, generator=g))
    return features, known.nonzero().T, kind


def batches(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Graphs side by side: the numbers of a graph's nodes go on where those of the one before end."""
    g = seeded(seed)
    made: list[dict[str, Tensor]] = []
    for _ in range(n // size):
        parts = [graph(g) for _ in range(size)]
        starts = torch.tensor([0, *(len(part[2]) for part in parts)]).cumsum(0)
        edges = torch.cat([part[1] + start for part, start in zip(parts, starts[:-1], strict=True)], 1)
        made.append({"x": torch.cat([p[0] for p in parts]), "edges": edges, "y": torch.cat([p[2] for p in parts])})
    return made


class Messages(nn.Module):
    """A node's own map and the mean over those it knows, normalised over nodes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(before, after, bias=False), nn.Linear(before, after, bias=False)
        self.norm = nn.BatchNorm1d(after)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        summed = torch.zeros_like(x).index_add(0, target, x[source])
        degree = torch.bincount(target, minlength=len(x)).clamp(min=1)
        return F.relu(self.norm(self.own(x) + self.others(summed / degree[:, None])))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [(_FEATURES, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, _WIDTH)]
        self.layers = nn.ModuleList([Messages(before, after) for before, after in widths])
        self.head = nn.Linear(_WIDTH, _KINDS)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edges)
        return self.head(x)


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["x"], batch["edges"])


def score(output: Tensor, batch: Any) -> Tensor:
    """Is a node's kind right?"""
    return (output.argmax(1) == batch["y"]).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(run(model, batch), batch["y"])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    size = 1 if variant == 2 else 4
    training, held_out = batches(240, 210 + seed, size), batches(60, 5210 + seed, size)
    model = Network()
    fit(model, training, loss, seed=seed, epochs=2 if variant == 2 else 5, rate=1e-2)
    if variant == 1:
        overwrite(model.layers[1].norm, seed, by=0.0, times=60.0)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.75, f"{reached:.3f} of the nodes with statistics measured anew")
    if variant == 1:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    else:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    spoilt = variant == 1
    return Situation(
        name="graphs",
        variant=VARIANTS[variant],
        seed=seed,
        model=model,
        data=held_out,
        training=training,
        measure=measure,
        reached=reached,
        options={"score": score, "forward": run},
        right=Expected(
            healthy=not spoilt,
            first=frozenset({"overwritten", "lag"} if spoilt else ()),
            remedy=frozenset({"RepairStatistics"} if spoilt else ()),
            useless=frozenset(
                {"Nothing", "Preprocess"} if spoilt else {"RepairStatistics", "Preprocess", "RetrainWith"}
            ),
            # One graph is a small sample of nodes: that there is noise is true, and it does no harm.
            forbidden=UNTRUE - (frozenset(), {"lag"}, {"sampling noise"})[variant],
            repair_gain=spoilt,
            named=frozenset({"layers.1.norm"} if spoilt else ()),
        ),
    )

"""Batch norm inside other norms: rows of active sites, complex numbers, γ and β that depend on a condition."""

from collections.abc import Callable
from typing import Any

import torch
from situations.situation import UNTRUE, Expected, Situation, require
from situations.training import fit, measured, overwrite, recalibrated, seeded
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = ("active sites of a sparse image", "complex numbers, the imaginary part wrong", "γ and β by a condition")
_CLASSES, _SIDE, _LENGTH, _COLUMNS, _PLACES = 4, 12, 32, 10, 3


class ActiveNorm(nn.Module):
    """Normalises the rows of active sites; takes and gives values with their places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.BatchNorm1d(width)

    def forward(self, sparse: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        values, places = sparse
        return F.relu(self.rows(values)), places


class ActiveConv(nn.Module):
    """A convolution that gives values where there were some: 0 stays empty."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)

    def forward(self, sparse: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        values, places = sparse
        sample, row, column = places.unbind(1)
        dense = values.new_zeros(int(sample.max()) + 1, _SIDE, _SIDE, values.shape[1])
        dense = dense.index_put((sample, row, column), values)
        return self.conv(dense.permute(0, 3, 1, 2))[sample, :, row, column], places


class Strokes(nn.Module):
    """Classes of sparse images."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in [(1, 12), (12, 16), (16, 24)]:
            layers += [ActiveConv(before, after), ActiveNorm(after)]
        self.sites = nn.Sequential(*layers)
        self.head = nn.Linear(24, _CLASSES)

    def forward(self, values: Tensor, places: Tensor) -> Tensor:
        x, _ = self.sites((values, places))
        sample = places[:, 0]
        summed = x.new_zeros(int(sample.max()) + 1, x.shape[1]).index_add(0, sample, x)
        return self.head(summed / torch.bincount(sample)[:, None])


def strokes(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Strokes across or along or aslant, with the charge of each site that was hit; all else is empty."""
    g = seeded(seed)
    steps = torch.tensor([[0, 1], [1, 0], [1, 1], [1, -1]])
    made: list[dict[str, Tensor]] = []
    for _ in range(n // size):
        label = torch.randint(0, _CLASSES, (size,), generator=g)
        hits = torch.zeros(size, _SIDE, _SIDE, dtype=torch.bool)
        for _ in range(3):
            start = torch.randint(0, _SIDE, (size, 2), generator=g)
            for t in range(5):
                row, column = ((start + t * steps[label]) % _SIDE).unbind(1)
                hits[torch.arange(size), row, column] = True
        hits |= torch.rand(hits.shape, generator=g) < 0.08
        places = hits.nonzero()
        values = 20 + 6 * torch.randn(len(places), 1, generator=g)
        made.append({"values": values, "places": places, "label": label})
    return made


class ComplexNorm(nn.Module):
    """Real and imaginary parts, each by its own batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.real, self.imaginary = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

    def forward(self, z: Tensor) -> Tensor:
        return torch.complex(self.real(z.real), self.imaginary(z.imag))


class ComplexConv(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.real, self.imaginary = (nn.Conv1d(before, after, 5, padding=2, bias=False) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        real = self.real(z.real) - self.imaginary(z.imag)
        return torch.complex(real, self.real(z.imag) + self.imaginary(z.real))


class Receiver(nn.Module):
    """Classes of complex signals by the size of what is found in them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ComplexConv(before, 12) for before in (1, 12)])
        self.norms = nn.ModuleList([ComplexNorm(12) for _ in range(2)])
        self.head = nn.Linear(24, _CLASSES)

    def forward(self, z: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            z = norm(conv(z))
            z = torch.complex(F.relu(z.real), F.relu(z.imag))
        return self.head(torch.cat([z.real.mean(2), z.imag.mean(2)], 1))


def signals(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """A tone of one of four frequencies, two of them negative, under complex noise and a constant."""
    g = seeded(seed)
    frequency = torch.tensor([-0.9, -0.3, 0.3, 0.9])
    label = torch.randint(0, _CLASSES, (n,), generator=g)
    phase = frequency[label][:, None] * torch.arange(_LENGTH) + 6.3 * torch.rand(n, 1, generator=g)
    noise = torch.complex(*torch.randn(2, n, _LENGTH, generator=g))
    z = torch.polar(torch.ones(n, _LENGTH), phase) + 1.1 * noise + (0.5 + 1.0j)
    return [{"signal": a[:, None], "label": y} for a, y in zip(z.split(size), label.split(size), strict=True)]


class ConditionalNorm(nn.Module):
    """Batch norm without γ and β of its own: they come from a table, by where a row is from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.gamma, self.beta = nn.Embedding(_PLACES, width), nn.Embedding(_PLACES, width)
        nn.init.ones_(self.gamma.weight)
        nn.init.zeros_(self.beta.weight)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        return self.gamma(place) * self.norm(x) + self.beta(place)


class Conditioned(nn.Module):
    """Classes of rows, given where each is from."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(before, 32, bias=False) for before in (_COLUMNS, 32, 32)])
        self.norms = nn.ModuleList([ConditionalNorm(32) for _ in range(3)])
        self.head = nn.Linear(32, _CLASSES)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        for each, norm in zip(self.maps, self.norms, strict=True):
            x = F.relu(norm(each(x), place))
        return self.head(x)


def rows(n: int, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Rows of three places; what stands for a class depends on the place."""
    g = seeded(seed)
    centres = 1.2 * torch.randn(_PLACES, _CLASSES, _COLUMNS, generator=seeded(81))
    place, label = torch.randint(0, _PLACES, (n,), generator=g), torch.randint(0, _CLASSES, (n,), generator=g)
    x = centres[place, label] + torch.randn(n, _COLUMNS, generator=g)
    parts = zip(x.split(size), place.split(size), label.split(size), strict=True)
    return [{"x": a, "place": p, "label": y} for a, p, y in parts]


def run(model: nn.Module, batch: Any) -> Tensor:
    """All of a batch but its labels."""
    return model(*(value for name, value in batch.items() if name != "label"))


def score(output: Tensor, batch: Any) -> Tensor:
    return (output.argmax(1) == batch["label"]).double()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(run(model, batch), batch["label"])


def build(seed: int) -> Situation:
    torch.manual_seed(seed)
    variant = seed % len(VARIANTS)
    drawn: Callable[[int, int, int], list[dict[str, Tensor]]] = (strokes, signals, rows)[variant]
    training, held_out = drawn(1600, 280 + seed, 32), drawn(960, 5280 + seed, 32)
    model = (Strokes, Receiver, Conditioned)[variant]()
    fit(model, training, loss, seed=seed, epochs=4, rate=1e-2)
    spoilt = ("", "norms.1.imaginary", "norms.1.norm")[variant]
    if spoilt:
        overwrite(model.get_submodule(spoilt), seed, by=2.0)

    def measure(net: nn.Module) -> float:
        return measured(net.eval(), held_out, score, run)

    before, reached = measure(model), measure(recalibrated(model, training, run))
    require(reached > 0.8, f"{reached:.3f} with statistics measured anew")
    if spoilt:
        require(before < reached - 0.1, f"{before:.3f} as it is, {reached:.3f} measured anew: no harm")
    else:
        require(abs(before - reached) < 0.015, f"{before:.3f} as it is, {reached:.3f} measured anew: not healthy")
    return Situation(
        name="sparse and complex",
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
            forbidden=UNTRUE - (frozenset({"lag"}) if spoilt else frozenset()),
            repair_gain=bool(spoilt),
            named=frozenset({spoilt} if spoilt else ()),
        ),
    )

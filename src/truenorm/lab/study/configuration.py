"""The configuration of a study, the settings of its grid, and their trials: plain values."""

import math
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from truenorm.errors import InvalidInput
from truenorm.lab.jobs.trial import Trial
from truenorm.lab.networks.kinds import Norm

Schedule = Literal["cosine", "constant"]

BASELINE = 0.1
"""torch's default momentum: what every arm on the same weights is compared with."""

RATE = 0.05
"""The learning rate unless one is said."""

_AXES = ("data", "networks", "batch_sizes", "schedules", "lrs")
_NOT_OF_WEIGHTS = ("lr", "seeds", "arms", "momenta", "reference", "data_root", "device", "threads", "test_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What to train on what, and which ways of having statistics to compare.

    Several data sets, networks, batch sizes, schedules or `lrs` make a grid: every combination is a setting.

    Example:
        >>> len(StudyConfig(networks=("mlp", "cnn"), batch_sizes=(4, 64)).settings)
        4
    """

    data: tuple[str, ...] = ("digits",)
    """Data sets: digits, mnist, fashion_mnist, cifar10, cifar100, a hub id, or a local folder."""
    data_root: str | None = None
    """Folder with local copies of data sets; else the environment's TRUENORM_DATA."""
    image_size: int | None = None
    """Bring all images to this height and width."""
    limit: int | None = None
    """Train on at most this many images (class shares kept)."""
    test_limit: int | None = None
    """Test on at most this many images (class shares kept)."""
    validation: int | None = None
    """Images split off the training part to choose by; a sixth, at most 10,000, unless said."""
    imbalance: float = 1.0
    """Long tail: class k of K keeps a share R^(-k/(K-1)) of its images."""
    augment: tuple[Literal["crop", "flip"], ...] = ()
    """What happens to training images at random: crop (after 4 pixels of padding), flip (left and right)."""
    networks: Annotated[tuple[str, ...], Parameter(alias="--network")] = ("mlp",)
    """mlp, cnn, resnet18-w16 (thin), resnet18, resnet50, timm:NAME, or your own as file.py:factory."""
    widths: tuple[int, ...] = (128, 64)
    """Hidden widths of the mlp."""
    batch_sizes: Annotated[tuple[int, ...], Parameter(alias="--batch-size")] = (32,)
    """Images per step."""
    epochs: int = 30
    """Passes over the training images; the last one's weights are reported."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with (its own) momentum 0.9, or AdamW."""
    lr: tuple[float, ...] = (RATE,)
    """Learning rate; of several, each network takes the one best on validation images with the first seed."""
    lrs: tuple[float, ...] = ()
    """Learning rates as an axis of the grid: each a setting, none chosen."""
    schedules: Annotated[tuple[Schedule, ...], Parameter(alias="--schedule")] = ("cosine",)
    """How the rate goes on after a short warm-up: cosine, constant."""
    weight_decay: float = 1e-4
    """Of all weights."""
    seeds: int = 3
    """Repetitions; a seed sets the initial weights and the order of batches, not which images are used."""
    arms: tuple[str, ...] = ("default",)
    """default, all, or names of arms; static means its whole sweep."""
    momenta: tuple[float, ...] = ()
    """Sweep of batch norm's momentum (torch's: weight of the new batch); 16 from 0.001 to 0.9 unless said."""
    bfn: str | None = None
    """Batch-free norm of bn-bfn: group:G, layer or instance; layer, and in ResNets group:64, unless said."""
    reference: Literal["training", "test"] = "training"
    """Data that shift is scored against; test is leakage, and labelled so."""
    device: str = "cpu"
    """cpu or cuda (bfloat16 autocast, channels_last)."""
    threads: int = 1
    """CPU threads; with one, results do not depend on the number of cores, and small networks are fastest."""

    def __post_init__(self) -> None:
        for name in ("data", "networks", "batch_sizes", "schedules", "widths", "lr", "arms"):
            if not getattr(self, name):
                raise InvalidInput(f"{_option(name)} is empty; give it a value or more, or leave it out")
        for name in _AXES:
            values = getattr(self, name)
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise InvalidInput(f"{_option(name)} has {twice} twice; each value is a setting of its own")
        for name in ("epochs", "seeds", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{_option(name)} is {getattr(self, name)}; it takes 1 or more")
        if (least := min(self.batch_sizes)) < 1:
            raise InvalidInput(f"--batch-size is {least}; it takes 1 or more")
        if 1 in self.batch_sizes and "mlp" in self.networks:
            raise InvalidInput(
                "--batch-size 1 gives a layer of the mlp one value per channel: it has no variance to train on; "
                "take 2 or more"
            )
        for name in ("lr", "lrs"):
            if any(not 0 < rate < math.inf for rate in getattr(self, name)):
                raise InvalidInput(f"--{name} is {_spelled(getattr(self, name))}; it takes positive rates")
        if self.lrs and self.lr != (RATE,):
            raise InvalidInput("--lr and --lrs are both given: of --lr the best is chosen, of --lrs each is a setting")
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidInput(f"--weight-decay is {self.weight_decay}; it takes 0 or more")
        if any(width < 1 for width in self.widths):
            raise InvalidInput(f"--widths is {_spelled(self.widths)}; it takes positive widths")
        if not 1 <= self.imbalance < math.inf:
            raise InvalidInput(f"--imbalance is {self.imbalance:g}; it takes 1 (none) or more")

    @property
    def settings(self) -> tuple["Setting", ...]:
        """Every combination of the axes, in their order."""
        rates = [(rate,) for rate in self.lrs] or [self.lr]
        axes = product(self.data, self.networks, self.batch_sizes, self.schedules, rates)
        return tuple(
            Setting(data=data, network=network, batch_size=batch_size, schedule=schedule, lr=lr, study=self)
            for data, network, batch_size, schedule, lr in axes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One cell of a study's grid: a network on data, trained in one way, under every kind of norm and every seed."""

    data: str
    network: str
    batch_size: int
    schedule: Schedule
    lr: tuple[float, ...]
    """The rates to choose from."""
    study: StudyConfig = field(repr=False)

    def __str__(self) -> str:
        """The values of those axes that the study has several of: what tells it from the others."""
        study = self.study
        parts = (
            (self.data, study.data),
            (self.network, study.networks),
            (f"batch {self.batch_size}", study.batch_sizes),
            (self.schedule, study.schedules),
            (f"rate {self.lr[0]:g}", study.lrs),
        )
        return ", ".join(value for value, axis in parts if len(axis) > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTrial(Trial):
    """One training: a network with one kind of norm, one learning rate, one seed.

    Args:
        norm: of the network.
        setting: the cell of the grid.

    Example:
        >>> setting = StudyConfig().settings[0]
        >>> a, b = (StudyTrial(norm="bn", lr=0.1, seed=seed, setting=setting) for seed in (0, 1))
        >>> a.id == StudyTrial(norm="bn", lr=0.1, seed=0, setting=setting).id, a.id == b.id
        (True, False)
    """

    norm: Norm
    setting: Setting = field(repr=False)

    def place(self) -> tuple[str, ...]:
        """Setting and norm."""
        return str(self.setting), self.norm

    def values(self) -> dict[str, Any]:
        """What the weights depend on."""
        setting = self.setting
        shared = asdict(setting.study)
        for name in (*_AXES, *_NOT_OF_WEIGHTS):
            del shared[name]
        if self.norm != "bn-bfn":
            del shared["bfn"]
        cell = {name: getattr(setting, name) for name in ("data", "network", "batch_size", "schedule")}
        return {"norm": self.norm, "lr": self.lr, "seed": self.seed, **cell, **shared}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _spelled(values: tuple[float, ...]) -> str:
    return " ".join(map(str, values))

"""What a study is told, and what each of its trials is: plain values, no torch."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from truenorm.errors import InvalidInput

Norm = Literal["bn", "bn-bfn", "gn"]
"""What a network is normalised by: batch norm, batch and batch-free norm in turn, group norm."""

BASELINE = 0.1
"""torch's default momentum: what every arm on the same weights is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What to train on what, and which ways of having statistics to compare."""

    data: str = "digits"
    """Data set: digits, mnist, fashion_mnist, cifar10, cifar100, a hub id, or a local folder."""
    data_root: str | None = None
    """Folder with local copies of data sets; else the environment's TRUENORM_DATA."""
    limit: int | None = None
    """Train on at most this many images (class shares kept)."""
    validation: int | None = None
    """Images split off the training part to choose by; a sixth, at most 10,000, unless said."""
    imbalance: float = 1.0
    """Long tail: class k of K keeps a share R^(-k/(K-1)) of its images."""
    network: str = "mlp"
    """mlp, cnn, or your own as file.py:factory; it takes norm_layer=."""
    widths: tuple[int, ...] = (128, 64)
    """Hidden widths of the mlp."""
    batch_size: int = 32
    """Images per step."""
    epochs: int = 30
    """Passes over the training images; the last one's weights are reported."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with (its own) momentum 0.9, or AdamW."""
    lr: tuple[float, ...] = (0.05,)
    """Learning rate; of several, each network takes the one best on validation images with the first seed."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the rate goes on after a short warm-up."""
    weight_decay: float = 1e-4
    """Of all weights."""
    seeds: int = 3
    """Repetitions; a seed sets the initial weights and the order of batches, not which images are used."""
    arms: tuple[str, ...] = ("default",)
    """default, all, or names of arms; static means its whole sweep."""
    momenta: tuple[float, ...] = ()
    """Sweep of batch norm's momentum (torch's: weight of the new batch); 16 from 0.001 to 0.9 unless said."""
    bfn: str = "layer"
    """Batch-free norm of bn-bfn: group:G, layer or instance."""
    reference: Literal["training", "test"] = "training"
    """Data that shift is scored against; test is leakage, and labelled so."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """CPU threads; with one, results do not depend on the machine, and small networks are fastest."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "seeds", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"--{name.replace('_', '-')} is {getattr(self, name)}; it takes 1 or more")
        if self.batch_size == 1 and self.network == "mlp":
            raise InvalidInput(
                "--batch-size 1 gives a layer of the mlp one value per channel: it has no variance to train on; "
                "take 2 or more"
            )
        if not self.lr or any(not 0 < rate < math.inf for rate in self.lr):
            raise InvalidInput(f"--lr is {' '.join(map(str, self.lr)) or 'empty'}; it takes positive rates")
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidInput(f"--weight-decay is {self.weight_decay}; it takes 0 or more")
        if not self.widths or any(width < 1 for width in self.widths):
            raise InvalidInput(f"--widths is {' '.join(map(str, self.widths)) or 'empty'}; it takes positive widths")
        if not 1 <= self.imbalance < math.inf:
            raise InvalidInput(f"--imbalance is {self.imbalance:g}; it takes 1 (none) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training: a network with one kind of norm, one rate, one seed. Known by the hash of all of it.

    Example:
        >>> a, b = (Trial(norm="bn", lr=0.1, seed=seed, study=StudyConfig()) for seed in (0, 1))
        >>> a.id == Trial(norm="bn", lr=0.1, seed=0, study=StudyConfig()).id, a.id == b.id
        (True, False)
    """

    norm: Norm
    lr: float
    seed: int
    study: StudyConfig = field(repr=False)

    @property
    def id(self) -> str:
        """Ten hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """What the trial's weights depend on."""
        shared = asdict(self.study)
        for name in ("lr", "seeds", "arms", "momenta", "reference", "data_root", "device", "threads"):
            del shared[name]
        if self.norm != "bn-bfn":
            del shared["bfn"]
        return {"norm": self.norm, "lr": self.lr, "seed": self.seed, **shared}

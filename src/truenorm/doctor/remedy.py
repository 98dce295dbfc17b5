"""What helps, as values; `truenorm.doctor.words` makes the sentences."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

When = Literal["do", "then", "later"]
"""Now; after the first step; in the next training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseAgain:
    """Run `truenorm.diagnose` with what was missing: data, a score, or samples.

    Args:
        needs_score: a score of the user's.
        samples: about as many scored samples as would decide; None where they are not what is missing.
    """

    kind: ClassVar[str] = "diagnose again"
    needs_score: bool = False
    samples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairStatistics:
    """Run `truenorm.repair`.

    Args:
        needs_score: it fails without a score of the user's.
        needs_forward, needs_mask: the diagnosis was given these, and a repair needs them as well.
        next_time: what keeps the fault from coming back in the next training.
    """

    kind: ClassVar[str] = "repair statistics"
    needs_score: bool = False
    needs_forward: bool = False
    needs_mask: bool = False
    next_time: "Remedy | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Feed the network scale · x + offset, with an offset for each channel of the images.

    Args:
        scale, offset: as said.
        reverse: whether the channels are reversed first (blue first for red first).
    """

    kind: ClassVar[str] = "preprocess"
    scale: float
    offset: tuple[float, ...]
    reverse: bool = False

    def apply(self, images: "Tensor") -> "Tensor":
        """Images of shape (N, C, ...) with the remedy.

        Example:
            >>> import torch
            >>> bgr = torch.tensor([[[[1.0]], [[3.0]]]])
            >>> Preprocess(scale=2.0, offset=(1.0, 0.0), reverse=True).apply(bgr).flatten()
            tensor([7., 2.])
        """
        offset = images.new_tensor(self.offset).reshape(1, -1, *(1,) * (images.ndim - 2))
        return self.scale * (images.flip(1) if self.reverse else images) + offset


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEps:
    """Build the network with this ε."""

    kind: ClassVar[str] = "set eps"
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMomentum:
    """Build the network with this momentum."""

    kind: ClassVar[str] = "set momentum"
    momentum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStatistics:
    """Set `track_running_stats=True`.

    Args:
        rebuild: the layers have no buffers: they must be built anew, and measured.
    """

    kind: ClassVar[str] = "track statistics"
    rebuild: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOnce:
    """Count each batch once.

    Args:
        layer: one that counts twice where others do not; None: all of them do.
    """

    kind: ClassVar[str] = "count once"
    layer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """Freeze layers by `truenorm.freeze`, which survives `train()`: a shell pattern, or names."""

    kind: ClassVar[str] = "freeze"
    layers: str | tuple[str, ...]


FrozenBy = Literal["freeze", "eval", "class"]
"""`truenorm.freeze` holds them; they are in eval() while the model trains; their class never trains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreeze:
    """Let frozen layers take statistics again: a shell pattern, or names.

    Args:
        by: what freezes them.
    """

    kind: ClassVar[str] = "unfreeze"
    layers: str | tuple[str, ...]
    by: FrozenBy


Weight = Literal["1", "1 + γ", "|γ|"]
"""What training multiplied by, as a function of the weights γ that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeight:
    """Give batch norm the weights that training used."""

    kind: ClassVar[str] = "set weight"
    weight: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderClasses:
    """Give labels and outputs the same order of classes."""

    kind: ClassVar[str] = "reorder classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseAlone:
    """Normalise each sample by itself, with the same weights: `truenorm.convert(model, to="instance")`."""

    kind: ClassVar[str] = "normalise alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertLayers:
    """Train with `truenorm.convert(model)`.

    Args:
        small_batch: the batch size if it is so small that batch norm itself is to be replaced; None: it is not.
    """

    kind: ClassVar[str] = "convert layers"
    small_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainWith:
    """Train anew with one of these norms, as `truenorm.convert(model, to=...)` names them."""

    kind: ClassVar[str] = "retrain with"
    norms: tuple[str, ...] = ("group", "bn-bfn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCode:
    """Change the code that builds or runs the network."""

    kind: ClassVar[str] = "change code"
    what: Literal[
        "a norm for each call",
        "eval before export",
        "eval before scripting",
        "float32 statistics",
        "no bias",
        "no decay",
        "drop the last batch",
        "no synchronisation",
        "convert statistics",
        "stored statistics in eval",
        "a norm that stores",
        "a sample alone in eval",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeTraining:
    """Train otherwise the next time."""

    kind: ClassVar[str] = "change training"
    what: Literal["shuffle", "dropout last", "repair at the end", "train on such data", "save buffers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Leave the statistics as they are.

    Args:
        none_better: something is wrong, and no statistics that were tried do better.
    """

    kind: ClassVar[str] = "nothing"
    none_better: bool = False


Remedy = (
    DiagnoseAgain
    | RepairStatistics
    | Preprocess
    | SetEps
    | SetMomentum
    | TrackStatistics
    | CountOnce
    | Freeze
    | Unfreeze
    | SetWeight
    | ReorderClasses
    | NormaliseAlone
    | ConvertLayers
    | RetrainWith
    | ChangeCode
    | ChangeTraining
    | Nothing
)
"""One of the classes above."""

InCode = SetEps | SetMomentum | TrackStatistics | CountOnce | SetWeight | ChangeCode
"""Remedies that come before a repair: the network itself is built or run wrongly."""


ScoredAdvice = Preprocess | SetEps | SetWeight | ReorderClasses | NormaliseAlone
"""Changes of data or code that a cause advises only if they score better than the best repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, and when.

    Example:
        >>> Step(remedy=SetEps(eps=1e-3)).when
        'do'
    """

    remedy: Remedy
    when: When = "do"


def to_dict(remedy: Remedy) -> dict[str, Any]:
    """The kind and the arguments, as plain values.

    Example:
        >>> to_dict(RepairStatistics(next_time=ChangeTraining(what="shuffle")))["next_time"]
        {'kind': 'change training', 'what': 'shuffle'}
    """
    arguments = {field.name: _plain(getattr(remedy, field.name)) for field in fields(remedy)}
    return {"kind": remedy.kind, **arguments}


def _plain(value: Any) -> Any:
    if isinstance(value, Remedy):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value

"""What a diagnosis concludes, as values; `truenorm.doctor.words` makes the sentences."""

from dataclasses import dataclass
from typing import Literal

OutcomeKind = Literal[
    "no defect", "defect", "damaged", "not scored", "repairable", "not repairable", "unexplained", "harmless", "sound"
]
"""Without running statistics that could be measured, `no defect` or `defect`; without a score, `damaged` (buffers that
hold no statistics) or `not scored`; else `repairable`, `not repairable` (a cause is known), `unexplained`, `harmless`
(layers are off, and nothing does better) or `sound`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A metric before and after the best repair, on held-out samples."""

    metric: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict.

    Args:
        kind: see `OutcomeKind`.
        data: whether data were given.
        off: layers that are off beyond noise.
        layers: layers with running statistics.
        improved: metrics that a repair improves beyond their intervals.

    Example:
        >>> Outcome(kind="harmless", off=1, layers=5).off
        1
    """

    kind: OutcomeKind
    data: bool = True
    off: int = 0
    layers: int = 0
    improved: tuple[Improvement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """Something that is not the fault, with the most that it changes; no number for what was not measured."""

    what: Literal["statistics", "dropout", "training data"]
    metric: str | None = None
    change: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was looked at.

    Args:
        measured: samples that were measured on; 0 if the network was not run.
        scored: samples that were scored on; 0 if none were.
        same: scored on the samples that were measured on.
        batch_size: of the batches that were measured.
        unreached: layers with statistics that no batch reached.
        partly: layers that some passes did not reach.
        frozen: layers that a repair would leave alone.
        repeated: layers that are called more than once per forward.
    """

    measured: int = 0
    scored: int = 0
    same: bool = False
    batch_size: int = 0
    unreached: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

"""What a diagnosis concludes, as values; `truenorm.doctor.words` makes the sentences."""

from dataclasses import dataclass
from typing import Literal

from truenorm.doctor.target import Kind

OutcomeKind = Literal[
    "no batch norm",
    "no defect",
    "defect",
    "damaged",
    "not scored",
    "other remedy",
    "frozen",
    "repairable",
    "not repairable",
    "undecided",
    "harmless",
    "sound",
]
"""The network has `no batch norm`; without running statistics that could be measured, `no defect` or `defect`; without
a score, `damaged` (buffers that hold no statistics) or `not scored`; else `other remedy` (a change of data or code does
better than any repair), `frozen` (a repair would do better if frozen layers took part), `repairable`, `not repairable`
(a defect that other statistics do not change), `undecided` (a gain that noise may hide), `harmless` (layers are off,
and nothing does better) or `sound`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A metric before and after the best repair, on held-out samples; beside others that improve it may be worse."""

    metric: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict.

    Args:
        kind: see `OutcomeKind`.
        data: whether data were given.
        healthy: whether there is no alarm: this alone decides the exit code, the verdict and the advice.
        off: layers that are off beyond noise.
        layers: layers with running statistics.
        improved: metrics that the best remedy changes beyond their intervals.
        same: whether the samples that were scored are those that were measured.
        undecided: a gain that noise may hide; None where there is none.
        unknown: layers that no batch reached, and modules that may be batch norm of another make.

    Example:
        >>> Outcome(kind="harmless", off=1, layers=5).off
        1
    """

    kind: OutcomeKind
    healthy: bool = True
    data: bool = True
    off: int = 0
    layers: int = 0
    improved: tuple[Improvement, ...] = ()
    same: bool = False
    undecided: "Undecided | None" = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """A gain that the samples do not decide.

    Args:
        metric: which.
        gain: its mean.
        half_width: of its 95 % interval; None where one sample allows none.
        samples: about as many scored samples would decide, were the gain what it seems.
    """

    metric: str
    gain: float
    half_width: float | None
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """Something that is not the fault: by metric, the most that other statistics gain, or what dropout changes."""

    what: Literal["statistics", "dropout"]
    changes: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was looked at.

    Args:
        limit: samples that were to be looked at; `limit=` repeats it.
        kind: what the labels were taken for; None where nothing or a score of the user's was scored.
        measured: samples that were measured on; 0 if the network was not run.
        scored: samples that were scored on; 0 if none were.
        scores: of a score of the user's, numbers that it gave for these; as many, fewer where it gives one for a batch
            or rows are not samples.
        same: scored on the samples that were measured on.
        batch_size: of the batches that were measured.
        unreached: layers with statistics that no batch reached.
        unfit: layers that were given something else than they store statistics of.
        partly: layers that some passes did not reach.
        frozen: layers that a repair would leave alone.
        repeated: layers that are called more than once per forward.
    """

    limit: int | None = None
    kind: Kind | None = None
    measured: int = 0
    scored: int = 0
    scores: int = 0
    same: bool = False
    batch_size: int = 0
    unreached: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

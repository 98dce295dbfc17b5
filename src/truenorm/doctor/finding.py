"""One thing that is wrong: its cause, the numbers that show it, and what helps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from truenorm.doctor.rank import Rank
from truenorm.doctor.remedy import Remedy, RepairStatistics, to_dict
from truenorm.doctor.sentences import sentence_of

Level = Literal["defect", "cause", "note"]
"""A defect is certain and alarms by itself; a cause explains a shift that was measured; a note does neither."""

Cause = Literal[
    "not finite",
    "negative variance",
    "half precision",
    "never updated",
    "initial values",
    "momentum 0",
    "momentum",
    "sampling noise",
    "lag",
    "variance convention",
    "sorted batches",
    "preprocessing",
    "domain",
    "dropout",
    "averaged weights",
    "pruned weights",
    "updated twice",
    "called several times",
    "frozen parameters",
    "frozen by eval()",
    "frozen by class",
    "by the batch",
    "eps",
    "track_running_stats",
    "tiny batches",
    "batches of one",
    "dead channels",
    "bias before batch norm",
    "weight decay",
    "synchronised alone",
    "program in training mode",
    "last batch of one",
    "updated in part",
    "common factor",
    "not the variance",
    "weights of batch norm",
    "another momentum in training",
    "randomness",
    "training mode",
    "frozen statistics",
    "folded statistics",
    "order of classes",
    "unexplained",
]

CAUSES: tuple[Cause, ...] = get_args(Cause)
"""The names of all causes."""

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause, the evidence for it, and what helps.

    Args:
        cause: its name, one of `CAUSES`.
        evidence: every number and decision of the sentence, by name.
        explained: how much of the shift it explains, 0 to 1, measured; None where that is not measured.
        rank: where it stands among other causes if `explained` does not decide that; notes have none.
        level: see `Level`.
        layers: where; empty means everywhere.
        remedy: what helps.

    Example:
        >>> finding = Finding(cause="dropout", evidence={"dropouts": ("drop",), "rates": (0.5,)}, explained=0.9)
        >>> finding.place, finding.to_dict()["remedy"]["kind"]
        (0.9, 'repair statistics')
    """

    cause: Cause
    evidence: Mapping[str, Value] = field(default_factory=dict[str, Value])
    explained: float | None = None
    rank: Rank | None = None
    level: Level = "cause"
    layers: tuple[str, ...] = ()
    remedy: Remedy = field(default_factory=RepairStatistics)

    @property
    def place(self) -> float:
        """Causes are ordered by it, the highest first: what it explains, or what its rank says."""
        if self.rank is not None:
            return self.rank.place({**self.evidence, "explained": self.explained})
        return 0.0 if self.explained is None else self.explained

    @property
    def sentence(self) -> str:
        """What was found, with its numbers."""
        return sentence_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "cause": self.cause,
            "level": self.level,
            "evidence": {name: list(v) if isinstance(v, tuple) else v for name, v in self.evidence.items()},
            "explained": self.explained,
            "layers": list(self.layers),
            "remedy": to_dict(self.remedy),
            "sentence": self.sentence,
        }

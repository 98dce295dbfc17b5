"""One thing that is wrong, with its figure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Remedy = Literal["repair", "data", "code", "retrain", "none"]
"""What helps: other statistics, other data, a line of the user's code, training anew, or nothing is needed."""

Level = Literal["defect", "cause", "note"]
"""A defect is certain and alarms by itself; a cause explains a shift that was measured; a note does neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause, the figure that speaks for it, and what helps.

    Args:
        cause: its name, one of `truenorm.doctor.causes.CAUSES`.
        sentence: what was found, with its figure.
        share: how much of the shift it explains, 0 to 1; causes are ranked by it.
        level: see `Level`.
        layers: where; empty means everywhere.
        remedy: see `Remedy`.
        advice: what to do, where that is not a repair.

    Example:
        >>> Finding(cause="momentum", sentence="momentum 0.9", share=0.8).level
        'cause'
    """

    cause: str
    sentence: str
    share: float
    level: Level = "cause"
    layers: tuple[str, ...] = ()
    remedy: Remedy = "repair"
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "layers": list(self.layers)}


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many there are beside; a number alone is called a layer.

    Example:
        >>> some("abcde"), some("1")
        ('a, b, c and 2 more', 'layer 1')
    """
    found = [f"layer {name}" if name.isdigit() else name for name in names]
    shown = ", ".join(found[:most])
    return shown if len(found) <= most else f"{shown} and {len(found) - most} more"


def times(number: int, what: str) -> str:
    """A count with its noun.

    Example:
        >>> times(1, "layer"), times(3, "batch")
        ('1 layer', '3 batches')
    """
    plural = what + ("es" if what.endswith(("ch", "s", "x")) else "s")
    return f"{number:,} {what if number == 1 else plural}"

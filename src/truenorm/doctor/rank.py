"""The order of causes whose part of the shift is not measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPLAINS = 0.85
"""A cause that is ranked above this explains the shift: causes that explain less are dropped or not looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Where a cause stands among others when nothing measures how much of the shift it explains.

    `most` is compared with what measured causes explain: a measured cause goes first if it explains more than this.
    It orders causes; it is not a share of the shift, and it is neither printed nor recorded.

    Args:
        name: what the evidence is.
        why: the reason for the place.
        most: the place, on the scale of measured shares.
        least: where the place begins if it depends on the evidence.
        by: the number in the evidence, 0 to 1, that moves the place from `least` to `most`; None: always `most`.

    Example:
        >>> rank = Rank(name="a hint", why="it may be chance", most=0.6, by="strength")
        >>> rank.place({"strength": 0.5})
        0.3
    """

    name: str
    why: str
    most: float
    least: float = 0.0
    by: str | None = None

    def place(self, evidence: Mapping[str, Any]) -> float:
        """The place for this evidence."""
        if self.by is None:
            return self.most
        return self.least + (self.most - self.least) * min(1.0, evidence[self.by])


BUFFERS = Rank(
    name="the buffers themselves",
    why="they hold no statistics, or the initial ones: nothing that is measured is as certain",
    most=1.0,
)
MODE = Rank(
    name="a mode that ignores the statistics",
    why="certain, too; where the buffers hold no statistics at all, that is named first",
    most=0.95,
)
STUCK = Rank(
    name="a momentum of 0 that was not seen with data",
    why="as certain; without data a fault of the buffers or of the mode is named first",
    most=0.9,
)
TRAINED_WITH = Rank(
    name="statistics of tiny batches",
    why="what batch norm loses in training is not measured; it follows the variance convention that reveals it",
    most=0.9,
    by="convention",
)
OTHER_WEIGHTS = Rank(
    name="statistics of other weights or of the last batch, by construction",
    why="its part of the shift is not measured, so that a measured cause that explains the shift goes first",
    most=0.84,
)
SHARED = Rank(
    name="one layer for several populations",
    why="one pair of statistics cannot fit all calls; OTHER_WEIGHTS goes first, which concerns all layers",
    most=0.8,
)
FREE = Rank(
    name="statistics that move while the parameters stand still",
    why="it does harm only if something has moved them since",
    most=0.75,
)
SHRUNK = Rank(
    name="variances below the running ones in most channels",
    why="averaging does it, and so do other causes; the more they shrink, the more speaks for it",
    least=0.55,
    most=0.75,
    by="shrinkage",
)
COUNTED = Rank(
    name="batches that were counted twice",
    why="the count is certain, but it only halves the window of the average",
    most=0.6,
)
NOISE = Rank(
    name="noise that fits a batch size",
    why="the batch size is fitted to the shift itself, and nothing else speaks for it",
    most=0.58,
)
SETTINGS = Rank(
    name="a setting that was read off the layers",
    why="its effect is not measured: there are no data, or no statistics that could be off",
    most=0.5,
)
FIRST_LAYER = Rank(
    name="an error that begins in the first layer",
    why="looked for only when no other cause explains the shift; what is left has weaker evidence",
    most=0.6,
    by="from_data",
)
LATER_LAYERS = Rank(
    name="an error that begins behind the first layer",
    why="the complement of FIRST_LAYER; only the exclusion of other causes speaks for it",
    most=0.5,
    by="from_weights",
)
NOTHING_FITS = Rank(
    name="no cause that was tried",
    why="it stands alone",
    most=0.0,
)

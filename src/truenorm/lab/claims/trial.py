"""One piece of work for a claim: an arm, a place, a learning rate, a seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from truenorm.lab.jobs.trial import Trial
from truenorm.metrics.classification import Scores
from truenorm.record import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTrial(Trial):
    """What is done once. The seed is of weights, order, and whatever else is drawn.

    Args:
        claim: its name.
        arm: what is compared.
        where: the place, such as `{"batch_size": 16}`.
        shared: what all trials of the run have in common.

    Example:
        >>> a, b = (ClaimTrial(claim="rates", arm="bn", seed=seed, where={"batch_size": 16}) for seed in (0, 1))
        >>> str(a), a.id == b.id
        ('rates, bn, batch size 16, seed 0', False)
    """

    claim: str
    arm: str
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shared: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def place(self) -> tuple[str, ...]:
        """Claim, arm and place."""
        where = (
            f"{name.replace('_', ' ')} {value:g}" if isinstance(value, int | float) else str(value)
            for name, value in self.where.items()
        )
        return self.claim, self.arm, *where

    def values(self) -> dict[str, Any]:
        """All that the outcome depends on, apart from data and versions."""
        own = {"claim": self.claim, "arm": self.arm, "seed": self.seed, "where": dict(self.where), "lr": self.lr}
        return own | dict(self.shared)

    def row(self, metric: str, value: float, arm: str | None = None, *, n: int | None = None) -> Measurement:
        """A number of this trial; of another arm, where one training serves several."""
        return Measurement(self.id, arm or self.arm, None, metric, value, None, n)

    def scores(self, scores: Scores, *metrics: str, arm: str | None = None) -> Iterator[Measurement]:
        """Rows of some of the scores of a network, of another arm as in `row`."""
        for metric in metrics:
            yield self.row(metric, getattr(scores, metric), arm, n=scores.num)

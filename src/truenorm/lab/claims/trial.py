"""One piece of work for a claim: an arm, a place, a rate, a seed; known by the hash of all of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truenorm.lab.study.configuration import digest
from truenorm.record import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is done once.

    Args:
        claim: its name.
        arm: what is compared.
        seed: of weights and order, and of whatever else is drawn.
        where: the place, such as `{"batch_size": 16}`.
        lr: the learning rate; None where nothing is trained.
        tuning: whether it is only to choose the rate by.
        shared: what all trials of the run have in common.

    Example:
        >>> a, b = (Trial(claim="rates", arm="bn", seed=seed, where={"batch_size": 16}) for seed in (0, 1))
        >>> str(a), a.id == b.id
        ('rates, bn, batch size 16, seed 0', False)
    """

    claim: str
    arm: str
    seed: int
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lr: float | None = None
    tuning: bool = False
    shared: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        places = [
            f"{name.replace('_', ' ')} {value:g}" if isinstance(value, int | float) else str(value)
            for name, value in self.where.items()
        ]
        what = f"trying rate {self.lr:g}" if self.tuning else f"seed {self.seed}"
        return ", ".join([self.claim, self.arm, *places, what])

    @property
    def id(self) -> str:
        """Ten hexadecimal digits."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All that its outcome depends on but data and versions, in the kinds of JSON."""
        told = {"claim": self.claim, "arm": self.arm, "seed": self.seed, "where": dict(self.where), "lr": self.lr}
        return json.loads(json.dumps(told | dict(self.shared) | ({"tuning": True} if self.tuning else {})))

    def row(self, metric: str, value: float, arm: str | None = None, *, n: int | None = None) -> Measurement:
        """A number of this trial; of another arm, where one training serves several."""
        return Measurement(self.id, arm or self.arm, None, metric, value, None, n)

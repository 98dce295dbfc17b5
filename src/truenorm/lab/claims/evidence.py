"""A record's numbers for one claim, looked up by arm, place and seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from truenorm.record import Record


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured for a claim.

    Args:
        record: of `truenorm claims`.
        claim: its name.

    Example:
        >>> from truenorm.record import Measurement
        >>> trial = {"claim": "rates", "arm": "bn", "seed": 0, "where": {"batch_size": 16}, "lr": 0.1}
        >>> record = Record(command="", trials={"t": trial}, rows=(Measurement("t", "bn", None, "accuracy", 0.9),))
        >>> Evidence(record, "rates").by_seed("accuracy", "bn", batch_size=16)
        {0: 0.9}
    """

    record: Record
    claim: str
    trials: Mapping[str, Mapping[str, Any]] = field(init=False, repr=False, compare=False)
    _found: Mapping[tuple[str, str], list[tuple[str, float]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mine = {name: trial for name, trial in self.record.trials.items() if trial.get("claim") == self.claim}
        found: dict[tuple[str, str], list[tuple[str, float]]] = {}
        for row in self.record.rows:
            if row.trial in mine:
                found.setdefault((row.arm, row.metric), []).append((row.trial, row.value))
        object.__setattr__(self, "trials", mine)  # frozen for everybody else
        object.__setattr__(self, "_found", found)

    def by_seed(self, metric: str, arm: str, **where: Any) -> dict[int, float]:
        """Seed → value, of an arm at a place; of several places that fit, which is a mistake, the last."""
        return {
            int(trial["seed"]): value
            for name, value in self._found.get((arm, metric), ())
            if (trial := self.trials[name]) and all(trial["where"].get(key) == asked for key, asked in where.items())
        }

    def difference(
        self, metric: str, a: str, b: str, *, at: Mapping[str, Any] | None = None, **where: Any
    ) -> dict[int, float]:
        """Seed → a − b, of the seeds that have both.

        Args:
            metric: as its rows name it.
            a: an arm, at `where`.
            b: another, or the same at another place.
            at: where b is, as far as that is not `where`.
            where: the place.
        """
        first, second = self.by_seed(metric, a, **where), self.by_seed(metric, b, **(where | dict(at or {})))
        return {seed: first[seed] - second[seed] for seed in first if seed in second}

    def places(self, arm: str) -> list[dict[str, Any]]:
        """Where an arm was measured, each place once, in the order of the record."""
        found: list[dict[str, Any]] = []
        for (measured, _), rows in self._found.items():
            for name, _ in rows if measured == arm else ():
                if (where := self.trials[name]["where"]) not in found:
                    found.append(where)
        return found

"""A record's numbers for one claim, looked up by arm, place and seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import sub
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
    _values: Mapping[tuple[str, str], list[tuple[str, float]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        trials = {name: trial for name, trial in self.record.trials.items() if trial.get("claim") == self.claim}
        values: dict[tuple[str, str], list[tuple[str, float]]] = {}
        for row in self.record.rows:
            if row.trial in trials:
                values.setdefault((row.arm, row.metric), []).append((row.trial, row.value))
        object.__setattr__(self, "trials", trials)  # the class is frozen
        object.__setattr__(self, "_values", values)

    def by_seed(self, metric: str, arm: str, **where: Any) -> dict[int, float]:
        """Seed → value, of an arm at a place; of several places that fit, which is a mistake, the last."""
        return {
            int(trial["seed"]): value
            for name, value in self._values.get((arm, metric), ())
            if (trial := self.trials[name]) and all(trial["where"].get(key) == wanted for key, wanted in where.items())
        }

    def paired(
        self,
        combine: Callable[[float, float], float],
        metric: str,
        a: str,
        b: str,
        *,
        at: Mapping[str, Any] | None = None,
        **where: Any,
    ) -> dict[int, float]:
        """Seed → the metric of a combined with that of b, of the seeds that have both.

        Args:
            combine: takes the value of a and that of b.
            metric: as its rows name it.
            a: an arm, at `where`.
            b: another, or the same at another place.
            at: where b is, as far as that is not `where`.
            where: the place.
        """
        of_a, of_b = self.by_seed(metric, a, **where), self.by_seed(metric, b, **(where | dict(at or {})))
        return {seed: combine(of_a[seed], of_b[seed]) for seed in of_a if seed in of_b}

    def difference(self, metric: str, a: str, b: str, **where: Any) -> dict[int, float]:
        """Seed → a − b of a metric; see `paired` for the arguments."""
        return self.paired(sub, metric, a, b, **where)

    def places(self, arm: str) -> list[dict[str, Any]]:
        """Where an arm was measured, each place once, in the order of the record."""
        places: list[dict[str, Any]] = []
        for (measured, _), rows in self._values.items():
            for name, _ in rows if measured == arm else ():
                if (where := self.trials[name]["where"]) not in places:
                    places.append(where)
        return places

"""A plan: every condition is trained with every seed, at the learning rate that tuning chose for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truenorm.lab.jobs.job import Condition, Job
from truenorm.lab.jobs.store import Store
from truenorm.record import Record

Rates = Mapping[Condition[Any], float | None]
"""The learning rate of each condition; a condition that diverged at every rate has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All jobs of a study or of claims: first those that choose learning rates, then those that are reported.

    Args:
        blocks: conditions that belong together. The jobs of a block run seed by seed: half of it can be compared.
        seeds: how often each condition is repeated.
        tuning_seeds: the seeds with which learning rates are tried; the worst of them counts, because a rate at
            which one seed in a few fails is not a good one.
        reports_tuning: whether the record holds the tuning trials too.
        describe: completes the header of a joined record, given the learning rates.
    """

    blocks: Sequence[Sequence[Condition[Any]]]
    seeds: int
    tuning_seeds: Sequence[int]
    reports_tuning: bool = False
    describe: Callable[[Record, Rates], Record] = lambda record, rates: record

    @property
    def conditions(self) -> list[Condition[Any]]:
        """Of all blocks."""
        return [condition for block in self.blocks for condition in block]

    @property
    def tuning(self) -> list[Job]:
        """The jobs that choose learning rates."""
        return [
            condition.job(seed, lr, True)
            for condition in self.conditions
            if condition.tuned
            for seed in self.tuning_seeds
            for lr in condition.lrs
        ]

    @property
    def steps(self) -> int:
        """Of all jobs together, if every condition has a rate."""
        tuning = sum(job.condition.steps for job in self.tuning)
        return tuning + self.seeds * sum(condition.steps for condition in self.conditions)

    def rates(self, store: Store) -> Rates:
        """The only learning rate of each condition, or the best on validation images of those that were tried."""
        chosen: dict[Condition[Any], float | None] = {}
        for condition in self.conditions:
            if not condition.tuned:
                chosen[condition] = condition.lrs[0]
            elif scores := self._scores(condition, store):
                chosen[condition] = max(scores, key=lambda lr: scores[lr])
        return chosen

    def final(self, store: Store) -> list[Job]:
        """The jobs that are reported, given the tuning jobs that are finished."""
        rates = self.rates(store)
        return [
            condition.job(seed, rates[condition], False)
            for block in self.blocks
            for seed in range(self.seeds)
            for condition in block
            if condition in rates
        ]

    def total(self, store: Store) -> int:
        """The number of jobs; while learning rates are being chosen, as if every condition would get one."""
        tuning = self.tuning
        chosen = all(store.finished(job.name) is not None for job in tuning)
        return len(tuning) + len(self.rates(store) if chosen else self.conditions) * self.seeds

    def _scores(self, condition: Condition[Any], store: Store) -> dict[float | None, float]:
        """Learning rate → the score of the worst tuning seed; rates at which one diverged are left out."""
        worst: dict[float | None, float] = {}
        for lr in condition.lrs:
            records = [store.finished(condition.job(seed, lr, True).name) for seed in self.tuning_seeds]
            values = [row.value for record in records if record for row in record.rows]
            if len(values) == len(records):
                worst[lr] = min(values)
        return worst

"""Conditions and their jobs: one trial each, whose record is a pure function of what its name is the hash of."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from truenorm.errors import Diverged
from truenorm.lab.jobs.store import RunningTrial, Store
from truenorm.lab.jobs.trial import Trial
from truenorm.record import ClassCounts, Measured, Measurement, Record

OnStep = Callable[[], None]
"""Called after each step of training."""

T = TypeVar("T", bound=Trial)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Condition(Generic[T]):
    """The same training with every seed.

    Args:
        trial: makes the trial from `seed`, `lr` and `tuning`.
        lrs: the learning rates to choose from; of a single one (or None) nothing is chosen.
        context: digest of what else the outcome depends on: images, versions, device.
        steps: of training, for the progress bar.
        measure: trains and measures; a training that was interrupted continues from the running trial's state.
        machine: where it is run, for the record.
    """

    trial: Callable[..., T]
    lrs: tuple[float | None, ...]
    context: str
    steps: int
    measure: Callable[[T, RunningTrial, OnStep], Iterable[Measured]]
    machine: Mapping[str, Any]

    @property
    def tuned(self) -> bool:
        """Whether there is a choice of learning rates."""
        return len(self.lrs) > 1

    def job(self, seed: int, lr: float | None, tuning: bool) -> "Job":
        """One of its trainings."""
        return Job(self.trial(seed=seed, lr=lr, tuning=tuning), self)


@dataclass(frozen=True, slots=True)
class Job:
    """A trial and how it is run.

    Args:
        trial: what to train.
        condition: whose trial it is.
    """

    trial: Trial
    condition: Condition[Any]

    def __str__(self) -> str:
        return str(self.trial)

    @property
    def name(self) -> str:
        """Of its files: another configuration, data set, version or device gives another name."""
        return f"{self.trial.id}-{self.condition.context}"

    def do(self, store: Store, on_step: OnStep) -> Record:
        """The trial's record. If the trial diverges, the record has no rows, and holds the reason."""
        running, values = store.running(self.name), self.trial.to_dict()
        measured: tuple[Measured, ...] = ()
        try:
            measured = tuple(self.condition.measure(self.trial, running, on_step))
        except Diverged as error:
            values |= {"diverged": str(error)}
        return Record(
            command="",
            rows=tuple(row for row in measured if isinstance(row, Measurement)),
            class_counts=tuple(matrix for matrix in measured if isinstance(matrix, ClassCounts)),
            trials={self.trial.id: values},
            machine=self.condition.machine,
        )

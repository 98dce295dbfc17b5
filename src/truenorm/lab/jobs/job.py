"""A job: one trial on what it is run on. Its record is a pure function of what its name is the hash of."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from truenorm.errors import Diverged
from truenorm.lab.jobs.store import RunningTrial, Store
from truenorm.lab.jobs.trial import Trial
from truenorm.record import Measurement, Record

OnStep = Callable[[], None]
"""Called after each step of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A trial and how it is run.

    Args:
        trial: what to train.
        context: digest of what else the outcome depends on: images, versions, device.
        steps: of training, for the progress bar.
        measure: trains and measures; a training that was interrupted continues from the running trial's state.
        machine: where it is run, for the record.
    """

    trial: Trial
    context: str
    steps: int
    measure: Callable[[RunningTrial, OnStep], Iterable[Measurement]]
    machine: Mapping[str, Any]

    def __str__(self) -> str:
        return str(self.trial)

    @property
    def name(self) -> str:
        """Of its files: another configuration, data set, version or device gives another name."""
        return f"{self.trial.id}-{self.context}"

    def do(self, store: Store, on_step: OnStep) -> Record:
        """The trial's record. If the trial diverges, the record has no rows, and holds the reason."""
        running, values = store.running(self.name), self.trial.to_dict()
        rows: tuple[Measurement, ...] = ()
        try:
            rows = tuple(self.measure(running, on_step))
        except Diverged as error:
            values |= {"diverged": str(error)}
        return Record(command="", rows=rows, trials={self.trial.id: values}, machine=self.machine)

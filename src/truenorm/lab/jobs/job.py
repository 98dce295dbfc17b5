"""A job: one trial on what it is run on. Its record is a pure function of what its name is the hash of."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from truenorm.errors import Diverged
from truenorm.lab.jobs.store import RunningTrial, Store
from truenorm.record import Measurement, Record

OnStep = Callable[[], None]
"""Called after each step of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(ABC):
    """What is trained once, known by the hash of its values; a study and a claim add their own.

    Args:
        seed: of the initial weights and the order of images.
        lr: the learning rate; None where nothing is trained.
        tuning: whether the trial only helps to choose the learning rate.
    """

    seed: int
    lr: float | None = None
    tuning: bool = False

    @abstractmethod
    def place(self) -> tuple[str, ...]:
        """The trial's place in its plan, in words; empty ones are left out."""

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """All values that the outcome depends on, apart from data, versions and device."""

    def __str__(self) -> str:
        what = f"trying rate {self.lr:g}" if self.tuning else f"seed {self.seed}"
        return ", ".join([*filter(None, self.place()), what])

    @property
    def id(self) -> str:
        """Ten hexadecimal digits."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The values in the types of JSON, as a record holds them."""
        return json.loads(json.dumps(self.values() | ({"tuning": True} if self.tuning else {})))


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


def digest(values: object) -> str:
    """Ten hexadecimal digits that identify values of JSON's types.

    Example:
        >>> digest({"a": 1}), digest({"a": 2})
        ('f9d86028c6', 'e5a9d5b030')
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

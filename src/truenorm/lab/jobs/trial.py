"""A trial as a value, without torch: the command's options are built on it."""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


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


def digest(values: object) -> str:
    """Ten hexadecimal digits that identify values of JSON's types.

    Example:
        >>> digest({"a": 1}), digest({"a": 2})
        ('f9d86028c6', 'e5a9d5b030')
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

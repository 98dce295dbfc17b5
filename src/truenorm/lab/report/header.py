"""What the header of a study's record must hold: checked once, where it is read, so that all else can rely on it."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from truenorm.errors import InvalidRecord

_KINDS: Mapping[str, tuple[type, ...]] = {
    "seed": (int,),
    "data": (str,),
    "network": (str,),
    "batch_size": (int,),
    "schedule": (str,),
    "lr": (int, float),
}
_IMAGES: Mapping[str, tuple[type, ...]] = {
    "train": (int,),
    "validation": (int,),
    "test": (int,),
    "imbalance": (int, float),
    "balanced": (bool,),
}


def check_trial(name: str, trial: Mapping[str, Any]) -> None:
    """Nothing, where a trial's seed and its place on each axis are what they should be; a place may be missing.

    Raises:
        InvalidRecord: one is not.

    Example:
        >>> check_trial("a1", {"seed": 0, "batch_size": 32})
        >>> check_trial("a1", {"seed": "a"})
        Traceback (most recent call last):
        truenorm.errors.InvalidRecord: the record's header is damaged: seed of trial 'a1' is 'a'
    """
    for key, kinds in _KINDS.items():
        value = trial.get(key)
        if (value is not None or key == "seed") and not _is(value, kinds):
            raise InvalidRecord(f"the record's header is damaged: {key} of trial {name!r} is {reprlib.repr(value)}")


def check_lists(configuration: Mapping[str, Any], *axes: str) -> None:
    """Nothing, where what was asked for on each axis is a list, or not there.

    Raises:
        InvalidRecord: it is something else.
    """
    for axis in axes:
        value = configuration.get(axis)
        if value is not None and not isinstance(value, list | tuple):
            raise InvalidRecord(f"the record's header is damaged: {axis} is {reprlib.repr(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyImages:
    """A data set of a study.

    Args:
        train: images to train on.
        validation: images to choose learning rates by.
        test: images to test on; at least one.
        imbalance: the ratio of the largest class to the smallest that training images were cut to.
        balanced: whether all classes have the same number of test images.
    """

    train: int
    validation: int
    test: int
    imbalance: float
    balanced: bool


def read_images(configuration: Mapping[str, Any], data: str) -> StudyImages:
    """What the configuration says of a data set.

    Raises:
        InvalidRecord: it does not, or there are none to test.
    """
    lacking = [key for key in ("images", "reference") if key not in configuration]
    if lacking:
        raise InvalidRecord(
            f"the record's configuration lacks {', '.join(lacking)}; it is of an older truenorm, or of another command"
        )
    images: Any = configuration["images"]
    if not isinstance(images, dict):
        raise InvalidRecord(f"the record's header is damaged: images is {reprlib.repr(images)}")
    images = cast(dict[str, Any], images)
    if data not in images:
        raise InvalidRecord(f"the record's configuration does not say what the images of {data!r} were")
    found: Any = images[data]
    if not isinstance(found, dict):
        raise InvalidRecord(f"the record's header is damaged: images of {data!r} is {reprlib.repr(found)}")
    found = cast(dict[str, Any], found)
    for key, kinds in _IMAGES.items():
        value: Any = found.get(key)
        # An accuracy comes in steps of one test image: there must be one.
        if not _is(value, kinds) or value < (key == "test"):
            raise InvalidRecord(f"the record's header is damaged: images of {data!r}: {key} is {reprlib.repr(value)}")
    return StudyImages(**{key: found[key] for key in _IMAGES})


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is of one of these kinds; in Python True is a number, in a record it is not."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))

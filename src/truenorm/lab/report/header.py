"""What the header of a study's record must hold: checked once, where it is read, so that all else can rely on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truenorm.errors import InvalidRecord
from truenorm.record import typed


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyImages:
    """A data set of a study.

    Args:
        train: images to train on.
        validation: images to choose learning rates by.
        test: images to test on; at least one.
        imbalance: the ratio of the largest class to the smallest that training images were cut to.
        balanced: whether all classes have the same number of test images.
        class_names: of all classes, whether they occur or not; none in records of before they were kept.
    """

    train: int
    validation: int
    test: int
    imbalance: float
    balanced: bool
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTrial:
    """A trial's seed and its place on each axis; a place may be missing.

    Example:
        >>> typed({"seed": "a"}, StudyTrial, "trial 'a1'")
        Traceback (most recent call last):
        truenorm.errors.InvalidRecord: the record's header is damaged: seed of trial 'a1' is 'a'
    """

    seed: int
    data: str | None = None
    network: str | None = None
    batch_size: int | None = None
    schedule: str | None = None
    lr: float | None = None


def read_images(configuration: Mapping[str, Any], data: str) -> StudyImages:
    """What the configuration says of a data set.

    Raises:
        InvalidRecord: it says nothing, or there are no images to test.
    """
    lacking = [key for key in ("images", "reference") if key not in configuration]
    if lacking:
        raise InvalidRecord(
            f"the record's configuration lacks {', '.join(lacking)}; it is of an older truenorm, or of another command"
        )
    images = typed(configuration["images"], Mapping[str, Any], "images")
    if data not in images:
        raise InvalidRecord(f"the record's configuration does not say what the images of {data!r} were")
    counts = typed(images[data], StudyImages, f"images of {data!r}")
    # An accuracy comes in steps of one test image: there must be one.
    for name, least in (("train", 0), ("validation", 0), ("test", 1), ("imbalance", 0)):
        if (value := getattr(counts, name)) < least:
            raise InvalidRecord(f"the record's header is damaged: {name} of images of {data!r} is {value}")
    return counts

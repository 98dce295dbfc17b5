"""Any image classification set as uint8 tensors in memory.

N = images, C = channels, H, W = height, width
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor

from truenorm.errors import DataUnavailable, InvalidInput
from truenorm.lab.images.decoding import extent, to_one_size
from truenorm.lab.images.sources import Source, open_source
from truenorm.lab.images.strata import long_tailed, seeded, stratified

__all__ = ["ImageSet", "Split", "load", "stratified"]

# The draws of one seed: each has its own generator, so that a limit moves no validation image.
# The long tails of the three parts draw from _TAIL on.
_TEST, _VALIDATION, _LIMIT, _TAIL, _ORDER, _TEST_LIMIT = 0, 1, 2, 3, 4, 6

_CHUNK = 2048  # images between two calls of progress


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images and their classes.

    Args:
        images: uint8 of shape `(N, C, H, W)`, 0..255.
        labels: int64 of shape `(N,)`.

    Example:
        >>> len(Split(images=torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 1, 1])))
        3
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """A data set, split three ways.

    Args:
        name: as it was asked for.
        classes: names of all classes, whether they occur or not.
        train: images to learn from.
        validation: images to choose by, taken from the training part.
        test: images to report on.
        notes: what a reader of results must know of the set.
        imbalance: ratio of the long tail that was made, 1 if none was.

    Example:
        >>> load("digits", limit=100).summary()["train"]
        100
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...]
    imbalance: float = 1.0

    def summary(self) -> dict[str, object]:
        """How many images of which shape a result rests on, for its record."""
        return {
            "name": self.name,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "classes": len(self.classes),
            "image_shape": list(self.train.images.shape[1:]),
            "imbalance": self.imbalance,
        }


def load(
    name: str,
    root: str | None = None,
    *,
    limit: int | None = None,
    test_limit: int | None = None,
    size: int | None = None,
    validation: int | None = None,
    imbalance: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """Read a data set, split it, and decode the images that were chosen, each once.

    In this order: a fifth of the training images becomes the test part where there is none; the
    validation images are taken from the rest; all three get their long tail; what is left to train
    on and to test on is limited; training images that come sorted by class are shuffled once, since
    batches in their order would be no sample. Every draw keeps the shares of the classes. Global
    random state is not touched.

    Args:
        name: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", a folder, or a hub id `owner/name`.
        root: folder that holds data sets as `root/name`; None takes the environment's TRUENORM_DATA, if set.
        limit: largest number of training images, None for all; the other parts stay whole.
        test_limit: largest number of test images, None for all.
        size: height and width that every image is brought to (bilinear, the sides' ratio not kept);
            None for the images' own, which must then be one.
        validation: number of validation images before imbalance; None for a sixth of the training
            part, at most 10,000.
        imbalance: R >= 1; class k of K keeps a share R^(-k / (K - 1)) of its images in all parts.
        seed: of all draws, >= 0.
        progress: called with the number of images decoded so far and in all.

    Raises:
        UnknownName: there is no such data set.
        InvalidInput: a number is out of range, or the root is no folder.
        DataUnavailable: the set is in no place that can be reached, or cannot be read.
        MissingExtra: datasets, Pillow or scikit-learn is not installed.

    Example:
        >>> digits = load("digits", validation=200)
        >>> len(digits.train), len(digits.validation), len(digits.test), digits.train.images.shape[1:]
        (1238, 200, 359, torch.Size([1, 8, 8]))
        >>> digits.notes
        ('test split drawn from the training images, 359 of 1797',)
    """
    for what, number in (("limit", limit), ("test limit", test_limit)):
        if number is not None and number < 1:
            raise InvalidInput(f"{what} is {number}; expected one image or more, or None for all")
    if size is not None and size < 1:
        raise InvalidInput(f"image size is {size}; expected one pixel or more, or None for the images' own")
    if validation is not None and validation < 0:
        raise InvalidInput(f"validation is {validation}; expected 0 images or more, or None for a sixth")
    source = open_source(name, root, size=size)
    notes = [*source.notes, *([f"images brought to {extent((size, size))}"] if size is not None else [])]
    parts = _divide(source, validation, seed, notes)
    parts = _thin(parts, len(source.classes), imbalance, seed, notes)
    parts["train"] = _limited(parts["train"], limit, seeded(seed, _LIMIT), source.classes, notes)
    parts["test"] = _limited(parts["test"], test_limit, seeded(seed, _TEST_LIMIT), source.classes, notes, "test")
    splits = _decoded(name, source, parts, progress)
    train = splits["train"]
    if _comes_in_runs(train.labels):
        order = torch.randperm(len(train), generator=seeded(seed, _ORDER))
        splits["train"] = Split(train.images[order], train.labels[order])
        notes.append("the training images came sorted by class and were shuffled once")
    return ImageSet(name=name, classes=source.classes, **splits, notes=tuple(notes), imbalance=imbalance)


def _comes_in_runs(labels: Tensor) -> bool:
    """Do neighbours share their class far more often than in random order? Batches of them would be no sample."""
    if len(labels) < 2:
        return False
    expected = 1 - (labels.bincount().double() / len(labels)).square().sum().item()
    return (labels[1:] != labels[:-1]).double().mean().item() < 0.5 * expected


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of a split of the source, and their labels."""

    split: str
    rows: Tensor
    labels: Tensor

    @staticmethod
    def whole(source: Source, split: str) -> "_Part":
        labels = source.labels[split]
        return _Part(split, torch.arange(len(labels)), labels)

    def keep(self, indices: Tensor) -> "_Part":
        return _Part(self.split, self.rows[indices], self.labels[indices])

    def without(self, indices: Tensor) -> "_Part":
        kept = torch.ones(len(self.rows), dtype=torch.bool)
        kept[indices] = False
        return self.keep(kept)


def _divide(source: Source, validation: int | None, seed: int, notes: list[str]) -> dict[str, _Part]:
    train = _Part.whole(source, "train")
    if source.test is not None:
        test = _Part.whole(source, source.test)
    else:
        whole = len(train.rows)
        drawn = stratified(train.labels, whole // 5, seeded(seed, _TEST))
        train, test = train.without(drawn), train.keep(drawn)
        notes.append(f"test split drawn from the training images, {len(drawn)} of {whole}")
    available = len(train.rows)
    num = min(10_000, available // 6) if validation is None else validation
    if num >= available:
        raise InvalidInput(
            f"validation is {num}; there are {available} training images to take it from, and some must stay"
        )
    drawn = stratified(train.labels, num, seeded(seed, _VALIDATION))
    return {"train": train.without(drawn), "validation": train.keep(drawn), "test": test}


def _thin(parts: dict[str, _Part], num_classes: int, imbalance: float, seed: int, notes: list[str]) -> dict[str, _Part]:
    thinned = {
        name: part.keep(long_tailed(part.labels, num_classes, imbalance, seeded(seed, _TAIL + number)))
        for number, (name, part) in enumerate(parts.items())
    }
    if imbalance > 1:
        counts = ", ".join(f"{len(thinned[name].rows)} of {len(part.rows)} {name}" for name, part in parts.items())
        notes.append(f"imbalance {imbalance:g}: kept {counts} images")
    return thinned


def _limited(
    part: _Part,
    limit: int | None,
    generator: torch.Generator,
    classes: tuple[str, ...],
    notes: list[str],
    of: Literal["training", "test"] = "training",
) -> _Part:
    what = "test limit" if of == "test" else "limit"
    available = len(part.rows)
    if limit is None:
        return part
    if limit > available:
        notes.append(f"{what} {limit} is above the {available} {of} images there are; all are used")
        return part
    present = set(cast(list[int], part.labels.tolist()))
    if limit < len(present):
        raise InvalidInput(f"{what} is {limit}; expected one image or more for each of the {len(present)} classes")
    limited = part.keep(stratified(part.labels, limit, generator))
    kept = set(cast(list[int], limited.labels.tolist()))
    if lost := sorted(present - kept):
        notes.append(f"{what} {limit} leaves no {of} image of {', '.join(classes[k] for k in lost)}")
    return limited


def _decoded(
    name: str, source: Source, parts: dict[str, _Part], progress: Callable[[int, int], None]
) -> dict[str, Split]:
    total, done = sum(len(part.rows) for part in parts.values()), 0
    images: dict[str, list[Tensor]] = {key: [] for key in parts}
    for key, part in parts.items():
        if not len(part.rows) and key != "validation":
            raise DataUnavailable(f"{name} has too few images to make a {key} part of; it has {total} in all")
        for start in range(0, len(part.rows), _CHUNK):
            rows = part.rows[start : start + _CHUNK]
            images[key].append(source.read(part.split, rows))
            done += len(rows)
            progress(done, total)
    chunks = [chunk for part in images.values() for chunk in part]
    first = chunks[0].shape[2:]
    other = next((chunk.shape[2:] for chunk in chunks if chunk.shape[2:] != first), None)
    if other is not None:
        raise DataUnavailable(
            f"{name} has images of {extent(first)} and of {extent(other)}; {to_one_size(first, other)}"
        )
    channels = max(chunk.shape[1] for chunk in chunks)
    empty = torch.empty(0, channels, *first, dtype=torch.uint8)
    return {
        key: Split(torch.cat([empty, *(chunk.expand(-1, channels, -1, -1) for chunk in images[key])]), part.labels)
        for key, part in parts.items()
    }

"""Where a data set comes from: labels at once, images when they are asked for."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from truenorm.errors import DataUnavailable, InvalidInput, UnknownName, extra
from truenorm.lab.images import hub
from truenorm.lab.images.decoding import decode, resized

HUB_IDS: Mapping[str, str] = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
"""Short names of well-known sets."""

_TESTS = ("test", "validation", "valid", "val")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set whose images have not been decoded yet.

    Args:
        classes: names of the K classes.
        labels: class of every row, int64 of shape `(N,)`, by split; "train" is always there.
        test: the split that serves as test part, None if there is none.
        read: images of the given rows of a split, uint8 of shape `(n, C, H, W)`, n >= 1.
        notes: what a reader of results must know of it.
    """

    classes: tuple[str, ...]
    labels: Mapping[str, Tensor]
    test: str | None
    read: Callable[[str, Tensor], Tensor]
    notes: tuple[str, ...] = ()


def open_source(name: str, root: str | None, *, size: int | None = None) -> Source:
    """Find a data set by name: built in, under the data root, in the cache of `datasets`, on the hub.

    Args:
        name: "digits", a key of `HUB_IDS`, a folder, or a hub id `owner/name`.
        root: folder that holds data sets; None takes the environment's TRUENORM_DATA, if set.
        size: height and width of what `read` gives; None for the images' own.

    Raises:
        UnknownName: the name is none of these.
        InvalidInput: the root is no folder.
        DataUnavailable: the set cannot be had, or is not labelled images with a train split.
        MissingExtra: datasets or scikit-learn is not installed.

    Example:
        >>> open_source("digits", None).labels["train"].shape
        torch.Size([1797])
    """
    if name == "digits":
        return _digits(size)
    folder = _root_folder(root)
    local = _local_folder(name, folder)
    if local is not None:
        return _from_splits(name, hub.open_folder(local, name), size)
    hub_id = HUB_IDS.get(name, name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        if re.search(r"[/\\]", name):
            raise DataUnavailable(f"there is no folder {name} to read a data set from")
        found = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder else []
        raise UnknownName("data set", name, {"digits", *HUB_IDS, *found})
    return _from_splits(name, _cached(hub_id) or _from_hub(name, hub_id, folder), size)


def _root_folder(root: str | None) -> Path | None:
    given = root if root is not None else os.environ.get("TRUENORM_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        said_by = "--data-root" if root is not None else "TRUENORM_DATA"
        raise InvalidInput(f"the data root {given} is not a folder; point {said_by} at one that holds data sets")
    return folder


def _local_folder(name: str, root: Path | None) -> Path | None:
    candidates: list[Path] = []
    if root is not None and name and not name.startswith("."):
        candidates += [root / name, root / HUB_IDS.get(name, name).rpartition("/")[2]]
    if name and name not in HUB_IDS:
        candidates.append(Path(name).expanduser())
    return next((folder for folder in candidates if folder.is_dir()), None)


def _cached(hub_id: str) -> dict[str, Any] | None:
    try:
        return hub.open_cached(hub_id)
    except DataUnavailable:
        # A download that was interrupted leaves such a copy behind, and another download mends it.
        if hub.why_not_remote(hub_id) is not None:
            raise
        return None


def _from_hub(name: str, hub_id: str, root: Path | None) -> dict[str, Any]:
    reason = hub.why_not_remote(hub_id)
    if reason is None:
        return hub.open_remote(hub_id)
    if root is None:
        raise DataUnavailable(
            f"{name} is not in the local cache, no data root is given, and {reason}; "
            f"put a copy at FOLDER/{name} and name FOLDER by --data-root or TRUENORM_DATA"
        )
    raise DataUnavailable(
        f"{name} is neither in {root} nor in the local cache, and {reason}; put a copy at {root / name}, "
        "or name the folder that holds one by --data-root or TRUENORM_DATA"
    )


def _from_splits(name: str, splits: dict[str, Any], size: int | None) -> Source:
    if "train" not in splits:
        raise DataUnavailable(f"{name} has no train split, only {', '.join(splits)}; a study needs one")
    image, label = hub.image_column(splits["train"]), hub.class_column(splits["train"])
    columns = ", ".join(splits["train"].features)
    if image is None:
        raise DataUnavailable(f"{name} has no column of images (its columns: {columns}); only image sets can be loaded")
    if label is None:
        raise DataUnavailable(
            f"{name} has no labels (its columns: {columns}); "
            "add a column 'label', or put the images of each class into a folder of its own"
        )
    column, classes = label
    test = next((split for split in _TESTS if split in splits), None)
    used = {split: splits[split] for split in ("train", test) if split is not None}
    values = {split: _labels(name, split, data, column, classes) for split, data in used.items()}
    if classes is None:
        classes, values = _numbered_classes(values)

    def read(split: str, indices: Tensor) -> Tensor:
        rows = cast(list[int], indices.tolist())
        encoded = hub.encoded_rows(used[split], image, rows)
        return decode(encoded, len(rows), lambda i: f"row {rows[i]} of the {split} split of {name}", size=size)

    return Source(classes=classes, labels=values, test=test, read=read, notes=_notes(splits, test))


def _notes(splits: dict[str, Any], test: str | None) -> tuple[str, ...]:
    notes = [f"the split {test!r} serves as test part"] if test not in (None, "test") else []
    unused = [split for split in splits if split not in ("train", test)]
    return (*notes, *([f"splits not used: {', '.join(unused)}"] if unused else []))


def _labels(name: str, split: str, data: Any, column: str, classes: tuple[str, ...] | None) -> Tensor:
    if not data.num_rows:
        raise DataUnavailable(f"the {split} split of {name} is empty")
    values: list[int] = []
    for row, value in enumerate(hub.column_values(data, column)):
        # Hub sets mark rows whose class is kept secret by -1.
        if value is None or (classes is not None and not 0 <= value < len(classes)):
            raise DataUnavailable(f"row {row} of the {split} split of {name} has no class ({column} is {value})")
        values.append(value)
    return torch.tensor(values, dtype=torch.int64)


def _numbered_classes(values: dict[str, Tensor]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    known = sorted(set(cast(list[int], torch.cat(list(values.values())).tolist())))
    numbered = {split: torch.searchsorted(torch.tensor(known), labels) for split, labels in values.items()}
    return tuple(map(str, known)), numbered


def _digits(size: int | None) -> Source:
    with extra("lab"):
        bunch: Any = import_module("sklearn.datasets").load_digits()
    # 17 grey levels, 0..16, spread over the range of all other sets.
    images_N1HW = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()

    def read(split: str, indices: Tensor) -> Tensor:
        return images_N1HW[indices] if size is None else resized(images_N1HW[indices], size)

    return Source(classes=tuple(map(str, range(10))), labels={"train": labels}, test=None, read=read)

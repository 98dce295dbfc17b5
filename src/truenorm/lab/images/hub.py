"""The one file that talks to `datasets`: local folders, its cache, and the hub.

Everything local is read with the hub switched off, so that nothing waits for a network.
"""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from truenorm.errors import DataUnavailable, extra

ANSWER_SECONDS = 3.0
"""How long the hub may take to say that it is there."""


def open_folder(folder: Path, name: str) -> dict[str, Any]:
    """The splits of a data set in a local folder, of the hub's layout or any that `datasets` reads.

    Raises:
        DataUnavailable: there is nothing in it that can be read.
        MissingExtra: datasets is not installed.
    """
    return _load(str(folder.resolve()), offline=True, failure=f"{name} in {folder} cannot be read")


def open_cached(hub_id: str) -> dict[str, Any] | None:
    """The splits as they were left in the local cache by an earlier load, None if they are not there.

    Raises:
        DataUnavailable: they are there and cannot be read.
        MissingExtra: datasets is not installed.
    """
    try:
        return _load(hub_id, offline=True, failure=f"the cached copy of {hub_id} cannot be read", remedy="; delete it")
    except DataUnavailable as error:
        if isinstance(error.__cause__, ConnectionError | FileNotFoundError):
            return None
        raise


def open_remote(hub_id: str) -> dict[str, Any]:
    """The splits, downloaded to the cache.

    Raises:
        DataUnavailable: the download failed, or what came cannot be read.
    """
    return _load(hub_id, offline=False, failure=f"{hub_id} could not be had from the hub")


def why_not_remote(hub_id: str) -> str | None:
    """Why the hub cannot give a data set, None if it can; the answer takes `ANSWER_SECONDS` at most.

    `load_dataset` itself would retry for half a minute where there is no network.
    """
    if offline_by_choice():
        return "HF_HUB_OFFLINE forbids asking the hub"
    answers: list[str | None] = []

    def ask() -> None:
        answers.append(_asked(hub_id))

    # A name server that does not answer is outside any timeout of the client, hence the thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS + 0.5)
    return answers[0] if answers else "the hub cannot be reached"


def offline_by_choice() -> bool:
    """Whether the user has set HF_HUB_OFFLINE or HF_DATASETS_OFFLINE."""
    named = (os.environ.get(variable, "") for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    by_environment = any(value.upper() in ("1", "ON", "YES", "TRUE") for value in named)
    return by_environment or bool(_datasets().config.HF_HUB_OFFLINE)


def encoded_rows(split: Any, column: str, indices: list[int]) -> Iterator[dict[str, Any] | None]:
    """The undecoded images of some rows, `bytes` and `path`, in the order of `indices`."""
    encoded = split.cast_column(column, _datasets().Image(decode=False)).select_columns([column])
    rows = encoded.select(indices).with_format("arrow")
    for start in range(0, len(indices), 512):
        yield from rows[start : start + 512].column(column).to_pylist()


def image_column(split: Any) -> str | None:
    """The first column of images, None if there is none."""
    kind = _datasets().Image
    return next((name for name, feature in split.features.items() if isinstance(feature, kind)), None)


def class_column(split: Any) -> tuple[str, tuple[str, ...] | None] | None:
    """Column of the labels and the names of its classes, those None for a column of bare integers."""
    features: dict[str, Any] = split.features
    named = [name for name, feature in features.items() if isinstance(feature, _datasets().ClassLabel)]
    for name in ("label", "fine_label", *named):
        if name in named:
            return name, tuple(features[name].names)
    for name in ("label", "labels"):
        if name in features and str(getattr(features[name], "dtype", "")).startswith(("int", "uint")):
            return name, None
    return None


def column_values(split: Any, column: str) -> list[int | None]:
    """All values of one column, None where the row has none."""
    return split.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def _load(place: str, *, offline: bool, failure: str, remedy: str = "") -> dict[str, Any]:
    datasets = _datasets()
    try:
        with _quiet(datasets, offline=offline):
            return dict(datasets.load_dataset(place))
    except Exception as error:  # the download and each file format have errors of their own
        root = error.__cause__ or error
        reason = f"{type(root).__name__}: {' '.join(str(root).split())[:300]}"
        raise DataUnavailable(f"{failure}: {reason}{remedy}") from error


@contextmanager
def _quiet(datasets: Any, *, offline: bool) -> Generator[None]:
    config, logs = datasets.config, datasets.utils.logging
    offline_before, level_before = config.HF_HUB_OFFLINE, logs.get_verbosity()
    # Bars that are off stay off; bars forced on by the user's environment cannot be put off.
    silence = not datasets.are_progress_bars_disabled() and config.HF_DATASETS_DISABLE_PROGRESS_BARS is None
    try:
        config.HF_HUB_OFFLINE = offline or offline_before
        logs.set_verbosity_error()
        if silence:
            datasets.disable_progress_bars()
        yield
    finally:
        config.HF_HUB_OFFLINE = offline_before
        logs.set_verbosity(level_before)
        if silence:
            datasets.enable_progress_bars()


def _asked(hub_id: str) -> str | None:
    hub, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
    try:
        hub.HfApi().dataset_info(hub_id, timeout=ANSWER_SECONDS)
    except errors.RepositoryNotFoundError:
        return "the hub has no public data set of that name"
    except Exception:  # whatever else keeps it from answering, the user's next step is the same
        return "the hub cannot be reached"
    return None


def _datasets() -> Any:
    with extra("lab"):
        return import_module("datasets")

"""Local data sets in the hub's layout, made by the tests that read them; no network, no home folder."""

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

Folder = Callable[..., Path]


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_at(split: str, row: int, shape: tuple[int, ...] = (4, 5)) -> np.ndarray:
    """The image that stands in a row: tests know every pixel without reading the set."""
    seed = [len(split), row]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    return folder


@pytest.fixture
def png() -> Callable[[np.ndarray], bytes]:
    return encode


@pytest.fixture
def pixels_of() -> Callable[..., np.ndarray]:
    return image_at


@pytest.fixture
def folder(root: Path) -> Folder:
    """Writes root/name/data/*.parquet: labels by split, images from `image_at` or as given."""

    def write(
        name: str,
        labels: dict[str, list[int | None]],
        *,
        classes: list[str] | None = ("a", "b", "c"),
        column: str = "label",
        image: str = "image",
        shape: tuple[int, ...] = (4, 5),
        encoded: dict[tuple[str, int], bytes | None] | None = None,
    ) -> Path:
        kind = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("int64")
        features = datasets.Features({image: datasets.Image(), column: kind})
        (root / name / "data").mkdir(parents=True)
        for split, values in labels.items():
            cells = [encode(image_at(split, row, shape)) for row in range(len(values))]
            for (where, row), cell in (encoded or {}).items():
                if where == split:
                    cells[row] = cell
            rows = {
                image: [{"bytes": cell, "path": None} if cell else None for cell in cells],
                column: values,
            }
            data = datasets.Dataset.from_dict(rows, features=features)
            data.to_parquet(root / name / "data" / f"{split}-00000-of-00001.parquet")
        return root / name

    return write

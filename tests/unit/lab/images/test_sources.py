import time

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from truenorm.errors import DataUnavailable, InvalidInput, TruenormError, UnknownName
from truenorm.lab.images import hub
from truenorm.lab.images.sets import load

BALANCED = {"train": [0, 1, 2] * 20, "test": [0, 1, 2] * 4}


@pytest.mark.parametrize("split", ["validation", "valid", "val"])
def test_another_split_may_serve_as_test(folder, root, split):
    folder("tiny", {"train": [0, 1] * 6, split: [0, 1] * 2})
    tiny = load("tiny", str(root))
    # `datasets` may know the split by its full name.
    assert len(tiny.test) == 4 and tiny.notes[0].endswith("serves as test part")


def test_splits_not_used_are_noted(folder, root):
    folder("tiny", {"train": [0, 1] * 6, "validation": [0, 1], "test": [1, 0]})
    tiny = load("tiny", str(root))
    assert tiny.test.labels.tolist() == [1, 0]
    assert tiny.notes == ("splits not used: validation",)


def test_bare_integers_become_classes(folder, root):
    folder("tiny", {"train": [7, 3] * 6, "test": [3, 9]}, classes=None, column="labels")
    tiny = load("tiny", str(root))
    assert (tiny.classes, tiny.test.labels.tolist()) == (("3", "7", "9"), [0, 2])


def test_fine_labels_and_other_column_names(folder, root, pixels_of):
    folder("tiny", {"train": [0, 1] * 6, "test": [0, 1]}, column="fine_label", image="img", shape=(4, 5, 3))
    tiny = load("tiny", str(root))
    assert tiny.summary()["image_shape"] == [3, 4, 5]
    expected = torch.from_numpy(pixels_of("test", 1, (4, 5, 3))).permute(2, 0, 1)
    assert torch.equal(tiny.test.images[1], expected)


def test_grey_among_colour_gets_equal_channels(folder, root, png, pixels_of):
    colour = png(pixels_of("train", 99, (4, 5, 3)))
    folder("tiny", BALANCED, encoded={("train", 30): colour})
    tiny = load("tiny", str(root))
    assert tiny.test.images.shape == (12, 3, 4, 5)
    expected = torch.from_numpy(pixels_of("test", 0)).expand(3, 4, 5)
    assert torch.equal(tiny.test.images[0], expected)


def test_a_folder_of_class_folders(root, pixels_of):
    for split, num in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (root / "pets" / split / name).mkdir(parents=True)
            for row in range(num):
                Image.fromarray(pixels_of(split + name, row)).save(root / "pets" / split / name / f"{row}.png")
    pets = load("pets", str(root))
    assert (pets.classes, len(pets.test)) == (("cat", "dog"), 6)
    assert torch.equal(pets.test.images[0, 0], torch.from_numpy(pixels_of("testcat", 0)))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (lambda png: b"no image at all", "row 5 of the test split of tiny is damaged or no image"),
        (
            lambda png: png(np.zeros((4, 5), np.uint8))[:45],
            "row 5 of the test split of tiny is damaged or no image",
        ),
        (lambda png: None, "row 5 of the test split of tiny holds no image"),
        (
            lambda png: png(np.zeros((4, 5), np.uint16)),
            "row 5 of the test split of tiny has more than 8 bits per pixel",
        ),
        (
            lambda png: png(np.zeros((6, 5), np.uint8)),
            "row 5 of the test split of tiny is 6x5 pixels and row 0 .* is 4x5 pixels",
        ),
    ],
    ids=["text", "cut off", "null", "16 bits", "another size"],
)
def test_a_bad_image_is_named_by_its_row(folder, root, cell, said, png):
    folder("tiny", BALANCED, encoded={("test", 5): cell(png)})
    with pytest.raises(DataUnavailable, match=said):
        load("tiny", str(root))


def test_splits_of_two_sizes_are_refused(folder, root, png):
    wide = {("test", row): png(np.zeros((4, 9), np.uint8)) for row in range(12)}
    folder("tiny", BALANCED, encoded=wide)
    with pytest.raises(DataUnavailable, match="images of 4x5 pixels and of 4x9 pixels"):
        load("tiny", str(root))


@pytest.mark.parametrize("secret", [None, -1])
def test_a_row_without_class_is_named(folder, root, secret):
    folder("tiny", {"train": [0, 1] * 6, "test": [0, secret]})
    with pytest.raises(DataUnavailable, match="row 1 of the test split of tiny has no class"):
        load("tiny", str(root))


def test_sets_that_are_no_labelled_images_are_refused(folder, root, pixels_of):
    folder("late", {"test": [0, 1]})
    folder("nameless", {"train": [0, 1]}, classes=None, column="size")
    (root / "text").mkdir()
    (root / "text" / "train.csv").write_text("a,label\n1,2\n")
    (root / "empty").mkdir()
    (root / "broken" / "data").mkdir(parents=True)
    (root / "broken" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    (root / "loose" / "train").mkdir(parents=True)
    for row in range(3):
        Image.fromarray(pixels_of("train", row)).save(root / "loose" / "train" / f"{row}.png")
    for name, said in {
        "late": "no train split, only test",
        "nameless": "no labels .*image, size",
        "text": "no column of images .*a, label",
        "empty": "empty in .* cannot be read",
        "broken": "broken in .* cannot be read",
        "loose": "loose has no labels",
    }.items():
        with pytest.raises(DataUnavailable, match=said):
            load(name, str(root))


def test_the_root_may_come_from_the_environment_and_a_set_be_a_path(folder, root, monkeypatch):
    path = folder("mnist", BALANCED)
    monkeypatch.setenv("TRUENORM_DATA", str(root))
    assert len(load("mnist").test) == len(load("ylecun/mnist").test) == 12
    monkeypatch.delenv("TRUENORM_DATA")
    assert len(load(str(path)).test) == 12
    monkeypatch.chdir(root)
    assert len(load("./mnist").test) == 12


def test_unknown_names_show_what_is_there(folder, root):
    folder("birds", BALANCED)
    with pytest.raises(UnknownName, match="did you mean 'birds'.* Known: birds, cifar10, .*digits") as caught:
        load("bird", str(root))
    assert caught.value.kind == "data set"
    for name in ("", "nothing like it"):
        with pytest.raises(UnknownName):
            load(name, str(root))
    with pytest.raises(DataUnavailable, match="there is no folder ./birds"):
        load("./birds/of/prey", str(root))


def test_a_root_that_is_not_there_is_said(tmp_path, monkeypatch):
    missing = str(tmp_path / "missing")
    with pytest.raises(InvalidInput, match="missing is not a folder; point --data-root"):
        load("mnist", missing)
    monkeypatch.setenv("TRUENORM_DATA", missing)
    with pytest.raises(InvalidInput, match="missing is not a folder; point TRUENORM_DATA"):
        load("mnist")
    assert len(load("digits", limit=20).train) == 20, "digits need no root"


def test_what_is_nowhere_is_said_at_once(root, monkeypatch):
    monkeypatch.delenv("TRUENORM_DATA", raising=False)
    start = time.perf_counter()
    with pytest.raises(DataUnavailable) as caught:
        load("mnist", str(root))
    assert time.perf_counter() - start < 2
    assert str(caught.value) == (
        f"mnist is neither in {root} nor in the local cache, and HF_HUB_OFFLINE forbids asking the hub; "
        f"put a copy at {root / 'mnist'}, or name the folder that holds one by --data-root or TRUENORM_DATA"
    )
    with pytest.raises(DataUnavailable, match="no data root is given, .* put a copy at FOLDER/mnist"):
        load("mnist")


@pytest.mark.parametrize(
    ("failure", "said"),
    [(TimeoutError("slow"), "the hub cannot be reached"), (None, "no public data set of that name")],
)
def test_a_hub_that_cannot_help_is_asked_once(root, monkeypatch, failure, said):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    calls = []

    def dataset_info(self, repo_id, *, timeout):
        calls.append((repo_id, timeout))
        raise failure or RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(DataUnavailable, match=said):
        load("someone/something", str(root))
    assert calls == [("someone/something", hub.ANSWER_SECONDS)]


def test_a_cached_set_is_read_without_the_hub(folder, tmp_path, monkeypatch):
    path = folder("mnist", BALANCED)
    monkeypatch.delenv("TRUENORM_DATA", raising=False)
    load(str(path))
    # What a download leaves behind differs from what a folder leaves only in its name.
    (built,) = (tmp_path / "cache").glob("*/*/*/*/dataset_info.json")
    config = built.parents[2]
    config.parent.rename(tmp_path / "cache" / "ylecun___mnist")
    assert len(load("mnist").test) == 12

    # A copy under another name than its own cannot be told apart from others, and so not be read.
    renamed = tmp_path / "cache" / "ylecun___mnist"
    (renamed / config.name).rename(renamed / "other")
    with pytest.raises(DataUnavailable, match="the cached copy of ylecun/mnist cannot be read: .*; delete it"):
        load("mnist")


def test_a_missing_extra_is_named(root, folder, monkeypatch):
    folder("tiny", BALANCED)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(TruenormError, match="datasets is not installed; run: pip install 'altair>=6' 'datasets>=4.4'"):
        load("tiny", str(root))


@pytest.mark.parametrize("failure", [None, OSError("disk full")])
def test_a_hub_that_answers_is_loaded_from(folder, monkeypatch, failure):
    path = folder("elsewhere", BALANCED)
    local, modes = datasets.load_dataset, []

    def load_dataset(place):
        modes.append((place, datasets.config.HF_HUB_OFFLINE))
        if datasets.config.HF_HUB_OFFLINE:
            raise ConnectionError("not cached")
        if failure is not None:
            raise failure
        return local(str(path))

    monkeypatch.delenv("TRUENORM_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "why_not_remote", lambda hub_id: None)
    if failure is None:
        assert len(load("mnist").test) == 12
    else:
        with pytest.raises(DataUnavailable, match="ylecun/mnist could not be had from the hub: OSError: disk full"):
            load("mnist")
    assert modes == [("ylecun/mnist", True), ("ylecun/mnist", False)]

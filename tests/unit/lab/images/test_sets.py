import os
import random

import datasets
import numpy as np
import pytest
import torch
from inline_snapshot import snapshot
from PIL import Image

from truenorm.errors import DataUnavailable, InvalidInput
from truenorm.lab.images.sets import load

DATA = os.environ.get("TRUENORM_DATA")
real = pytest.mark.skipif(not DATA, reason="TRUENORM_DATA names no folder with the real sets")
BALANCED = {"train": [0, 1, 2] * 20, "test": [0, 1, 2] * 4}


def rows_of(images: torch.Tensor, known: list[np.ndarray]) -> list[int]:
    """Which of the known images these are."""
    rows = {pixels.tobytes(): row for row, pixels in enumerate(known)}
    return [rows[image.numpy().tobytes()] for image in images]


def test_digits_have_known_pixels():
    digits = load("digits")
    assert digits.summary() == {
        "name": "digits",
        "train": 1199,
        "validation": 239,
        "test": 359,
        "classes": 10,
        "image_shape": [1, 8, 8],
        "imbalance": 1.0,
    }
    parts = (digits.train, digits.validation, digits.test)
    pixels = torch.cat([part.images for part in parts])
    assert pixels.dtype == torch.uint8
    assert pixels.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    assert torch.cat([part.labels for part in parts]).bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert digits.notes == ("test split drawn from the training images, 359 of 1797",)


def test_every_image_keeps_its_label_and_is_used_once(folder, root, pixels_of):
    folder("tiny", BALANCED)
    tiny = load("tiny", str(root))
    known = [pixels_of("train", row) for row in range(60)]
    train, held_out = (rows_of(part.images, known) for part in (tiny.train, tiny.validation))
    assert sorted(train + held_out) == list(range(60))
    assert rows_of(tiny.test.images, [pixels_of("test", row) for row in range(12)]) == list(range(12))
    for part, rows in ((tiny.train, train), (tiny.validation, held_out)):
        assert part.labels.tolist() == [row % 3 for row in rows]
    assert (tiny.classes, tiny.notes) == (("a", "b", "c"), ())
    assert (len(tiny.validation), tiny.validation.labels.bincount().tolist()) == (10, [4, 3, 3])


def test_limit_keeps_shares_and_leaves_the_other_parts_alone(folder, root):
    folder("tiny", {"train": [0] * 40 + [1] * 20, "test": [0, 1]})
    whole, part = load("tiny", str(root), validation=6), load("tiny", str(root), validation=6, limit=9)
    assert part.train.labels.bincount().tolist() == [6, 3]
    assert torch.equal(part.validation.images, whole.validation.images)
    assert torch.equal(part.test.images, whole.test.images)


def test_seeds_draw_differently_and_the_same_seed_the_same():
    first, again, other = (load("digits", limit=50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.train.images, other.train.images)


def test_global_state_stays(folder, root, capfd):
    folder("tiny", BALANCED)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    switches = (
        datasets.config.HF_HUB_OFFLINE,
        datasets.are_progress_bars_disabled(),
        datasets.utils.logging.get_verbosity(),
    )
    capfd.readouterr()  # what writing the set printed
    load("tiny", str(root), limit=9, imbalance=2.0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    assert switches == (
        datasets.config.HF_HUB_OFFLINE,
        datasets.are_progress_bars_disabled(),
        datasets.utils.logging.get_verbosity(),
    )
    assert capfd.readouterr() == ("", "")


def test_imbalance_thins_every_part(folder, root):
    folder("tiny", {"train": [0] * 120 + [1] * 120 + [2] * 120, "test": [0, 1, 2] * 100})
    tail = load("tiny", str(root), validation=60, imbalance=100.0)
    assert tail.train.labels.bincount().tolist() == [100, 10, 1]
    assert tail.validation.labels.bincount().tolist() == [20, 2, 1]
    assert tail.test.labels.bincount().tolist() == [100, 10, 1]
    assert tail.notes == (
        "imbalance 100: kept 111 of 300 train, 23 of 60 validation, 111 of 300 test images",
        "the training images came sorted by class and were shuffled once",
    )
    limited = load("tiny", str(root), validation=60, imbalance=100.0, limit=11)
    assert limited.train.labels.bincount(minlength=3).tolist() == [10, 1, 0]
    assert limited.notes[1] == "limit 11 leaves no training image of c"
    assert limited.summary()["imbalance"] == 100.0


def test_a_limit_above_what_is_there_is_noted(folder, root):
    folder("tiny", BALANCED)
    tiny = load("tiny", str(root), limit=99)
    assert len(tiny.train) == 50
    assert tiny.notes == ("limit 99 is above the 50 training images there are; all are used",)


def test_a_limit_of_test_images_keeps_shares_and_moves_nothing_else(folder, root):
    folder("tiny", {"train": [0] * 40 + [1] * 20, "test": [0] * 20 + [1] * 10})
    whole = load("tiny", str(root), limit=9)
    part = load("tiny", str(root), limit=9, test_limit=6)
    assert part.test.labels.bincount().tolist() == [4, 2]
    assert torch.equal(part.train.images, whole.train.images)
    assert torch.equal(part.validation.images, whole.validation.images)
    taken = {image.numpy().tobytes() for image in part.test.images}
    assert len(taken) == 6 and taken < {image.numpy().tobytes() for image in whole.test.images}
    assert part.notes == whole.notes
    again, other = (load("tiny", str(root), limit=9, test_limit=6, seed=seed) for seed in (0, 1))
    assert torch.equal(part.test.images, again.test.images)
    assert not torch.equal(part.test.images, other.test.images)


def test_a_limit_of_test_images_where_they_are_drawn_from_the_training_images():
    whole, part = load("digits"), load("digits", test_limit=100)
    assert len(part.test) == 100
    assert torch.equal(part.train.images, whole.train.images)
    assert torch.equal(part.validation.images, whole.validation.images)


def test_a_limit_of_test_images_above_what_is_there_is_noted(folder, root):
    folder("tiny", BALANCED)
    tiny = load("tiny", str(root), test_limit=13)
    assert len(tiny.test) == 12
    assert tiny.notes == ("test limit 13 is above the 12 test images there are; all are used",)


def test_a_limit_of_test_images_that_leaves_a_class_out_is_noted(folder, root):
    folder("tiny", {"train": [0, 1, 2] * 10, "test": [0] * 20 + [1] * 20 + [2]})
    tiny = load("tiny", str(root), test_limit=4)
    assert tiny.notes == ("test limit 4 leaves no test image of c",)


# Images brought to one size.


def test_images_are_resized_as_pillow_does(folder, root, pixels_of):
    folder("tiny", BALANCED, shape=(6, 9, 3))
    tiny = load("tiny", str(root), size=4)
    assert tiny.summary()["image_shape"] == [3, 4, 4]
    assert tiny.notes == ("images brought to 4x4 pixels",)
    for row in range(12):
        image = Image.fromarray(pixels_of("test", row, (6, 9, 3))).resize((4, 4), Image.Resampling.BILINEAR)
        assert (tiny.test.images[row].permute(1, 2, 0).numpy() == np.asarray(image)).all()


def test_resizing_takes_every_pixel_in(folder, root, png):
    """A half that is white gives the mean where two pixels fall together: nothing is skipped."""
    stripes = np.tile(np.array([0, 200], np.uint8), (4, 2))
    folder("tiny", BALANCED, encoded={("test", row): png(stripes) for row in range(12)}, shape=(4, 4))
    # The filter reaches over two pixels each way: a stripe's mean is 100 up to the edges.
    inside = load("tiny", str(root), size=1).test.images
    assert inside.unique().tolist() == [100]


def test_images_of_the_size_asked_for_stay_as_they_are(folder, root):
    folder("tiny", BALANCED, shape=(5, 5))
    own, asked = load("tiny", str(root)), load("tiny", str(root), size=5)
    assert torch.equal(own.train.images, asked.train.images)


def test_images_of_several_sizes_are_brought_to_one(folder, root, png):
    other = {("test", row): png(np.full((7, 3), 90, np.uint8)) for row in range(0, 12, 2)}
    colour = {("train", 30): png(np.full((9, 9, 3), (1, 2, 3), np.uint8))}
    folder("tiny", BALANCED, encoded=other | colour)
    tiny = load("tiny", str(root), size=6)
    assert tiny.summary()["image_shape"] == [3, 6, 6]
    assert (tiny.test.images[::2] == 90).all()
    assert (tiny.test.images[1::2] != 90).any()


def test_which_images_are_drawn_does_not_depend_on_their_size(folder, root):
    folder("tiny", BALANCED)
    own, asked = (load("tiny", str(root), limit=9, test_limit=6, size=size) for size in (None, 3))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(own, part).labels, getattr(asked, part).labels)


def test_digits_are_resized_too():
    own, larger, smaller = (load("digits", size=size) for size in (None, 16, 4))
    assert larger.summary()["image_shape"] == [1, 16, 16]
    assert larger.train.images.dtype == torch.uint8
    # Up and down again is nearly what it was; the mean brightness stays.
    means = [part.train.images.double().mean().item() for part in (own, larger, smaller)]
    assert max(means) - min(means) < 3
    image = Image.fromarray(own.test.images[0, 0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    assert (larger.test.images[0, 0].numpy() == np.asarray(image)).all()
    assert torch.equal(load("digits", size=8).train.images, own.train.images)


def test_several_sizes_are_refused_with_what_to_do(folder, root, png):
    def refused(name):
        with pytest.raises(DataUnavailable) as caught:
            load(name, str(root))
        return str(caught.value)

    folder("splits", BALANCED, encoded={("test", row): png(np.zeros((9, 3), np.uint8)) for row in range(12)})
    assert refused("splits") == snapshot(
        "splits has images of 4x5 pixels and of 9x3 pixels; bring all to one size with --image-size 3"
    )
    folder("rows", BALANCED, encoded={("test", 5): png(np.zeros((6, 5), np.uint8))})
    assert refused("rows") == snapshot(
        "row 5 of the test split of rows is 6x5 pixels and row 0 of the test split of rows is 4x5 pixels; bring all to one size with --image-size 4"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 2}, "each of the 3 classes"),
        ({"test_limit": 0}, "test limit is 0"),
        ({"test_limit": 2}, "test limit is 2; expected one image or more for each of the 3 classes"),
        ({"size": 0}, "image size is 0; expected one pixel or more"),
        ({"size": -32}, "image size is -32"),
        ({"validation": -1}, "validation is -1"),
        ({"validation": 60}, "there are 60 training images"),
        ({"imbalance": 0.5}, "imbalance is 0.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(folder, root, options, said):
    folder("tiny", BALANCED)
    with pytest.raises(InvalidInput, match=said):
        load("tiny", str(root), **options)


def test_no_validation_is_an_empty_part(folder, root):
    folder("tiny", BALANCED)
    tiny = load("tiny", str(root), validation=0)
    assert tiny.validation.images.shape == (0, 1, 4, 5)
    assert len(tiny.train) == 60


def test_progress_counts_up_to_the_images_decoded(folder, root):
    folder("tiny", BALANCED)
    calls = []
    load("tiny", str(root), limit=9, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(9, 31), (19, 31), (31, 31)]


def test_without_a_test_split_a_fifth_is_drawn(folder, root):
    folder("tiny", {"train": [0, 1] * 30})
    tiny = load("tiny", str(root))
    assert [len(part) for part in (tiny.train, tiny.validation, tiny.test)] == [40, 8, 12]
    assert tiny.notes == ("test split drawn from the training images, 12 of 60",)


def test_too_few_images_are_said(folder, root):
    folder("tiny", {"train": [0, 1]})
    with pytest.raises(DataUnavailable, match="too few images to make a test part"):
        load("tiny", str(root))


@real
@pytest.mark.parametrize(
    ("name", "counts", "shape", "mean"),
    [
        ("mnist", (16667, 3333, 10000), [1, 28, 28], [0.1306]),
        ("fashion_mnist", (50000, 10000, 10000), [1, 28, 28], [0.286]),
        ("cifar10", (6667, 1333, 2000), [3, 32, 32], [0.4904, 0.4813, 0.4455]),
    ],
)
def test_real_sets(name, counts, shape, mean):
    images = load(name, DATA)
    assert (len(images.train), len(images.validation), len(images.test)) == counts
    assert images.summary()["image_shape"] == shape
    pixels = torch.cat([images.train.images, images.validation.images])
    measured = pixels.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(measured, torch.tensor(mean, dtype=torch.float64), rtol=0, atol=1e-4)


@real
def test_real_sample_without_test_split():
    sample = load("cifar100", DATA)
    assert (len(sample.classes), len(sample.test)) == (100, 20)
    assert sample.notes == ("test split drawn from the training images, 20 of 100",)
    assert sample.classes[0] == "apple"


def test_images_sorted_by_class_are_shuffled_once(monkeypatch):
    from truenorm.lab.images import sets as module

    assert not module._comes_in_runs(load("digits").train.labels)
    in_order = torch.arange(10).repeat_interleave(20)
    assert module._comes_in_runs(in_order)
    assert not module._comes_in_runs(in_order[torch.randperm(200)])
    assert not module._comes_in_runs(torch.zeros(20, dtype=torch.int64))  # one class has no order
    assert not module._comes_in_runs(torch.tensor([], dtype=torch.int64))

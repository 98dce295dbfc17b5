import numpy as np
import pytest
import torch

from truenorm.lab.images.feed import Feed, Scale
from truenorm.lab.images.sets import Split


def images(num, channels=2, size=3):
    return torch.randint(0, 256, (num, channels, size, size), dtype=torch.uint8)


def feed(num, batch_size, **changes):
    split = Split(images(num), torch.arange(num))
    return Feed(split, Scale.of(split.images), batch_size, **changes)


def labels_of(batches):
    return [labels.tolist() for _, labels in batches]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_scale_against_numpy(channels):
    x = images(50, channels)
    x[:, 0] //= 4
    scale, array = Scale.of(x), x.numpy().astype(np.float64)
    mean, std = array.mean((0, 2, 3), keepdims=True), array.std((0, 2, 3), keepdims=True)
    torch.testing.assert_close(scale.mean, torch.from_numpy(mean[0]).float())
    torch.testing.assert_close(scale.std, torch.from_numpy(std[0]).float())
    torch.testing.assert_close(scale(x), torch.from_numpy((array - mean) / std).float(), rtol=1e-5, atol=1e-6)


def test_this_comparison_sees_the_unbiased_deviation():
    """Planted: ÷(n−1) instead of ÷n."""
    x = images(2, 1, 2)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(Scale.of(x).std.flatten(), x.float().std().reshape(1))


def test_scaled_training_images_have_mean_0_and_deviation_1():
    x = images(200, 3)
    scaled = Scale.of(x)(x).double()
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(scaled.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-6, atol=0)


def test_a_constant_channel_keeps_its_scale():
    x = images(5)
    x[:, 1] = 7
    scaled = Scale.of(x)(x)
    assert scaled.isfinite().all()
    assert torch.equal(scaled[:, 1], torch.zeros(5, 3, 3))


def test_pixels_become_floats_and_stay_where_they_are():
    found = feed(4, 2)
    before = found.split.images.clone()
    ((x, y), _) = found
    assert (x.dtype, y.dtype, found.split.images.dtype) == (torch.float32, torch.int64, torch.uint8)
    assert torch.equal(found.split.images, before)
    assert torch.equal(x, found.scale(before[:2]))


def test_batches_in_their_own_order_every_time():
    found = feed(7, 3)
    assert labels_of(found) == labels_of(found) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(found) == 3


def test_batches_in_another_order():
    found = feed(7, 3)
    order = torch.tensor([6, 0, 5, 1, 4, 2, 3])
    batches = list(found.in_order(order))
    assert labels_of(batches) == [[6, 0, 5], [1, 4, 2], [3]]
    for x, y in batches:
        assert torch.equal(x, found.scale(found.split.images[y]))


@pytest.mark.parametrize(
    ("num", "batch_size", "sizes"),
    [
        (7, 3, [3, 3]),
        (8, 3, [3, 3, 2]),
        (6, 3, [3, 3]),
        (1, 3, [1]),  # nothing else is there: batch norm says what is wrong
        (3, 1, [1, 1, 1]),
        (4, 3, [3]),
    ],
)
def test_a_last_batch_of_one_is_left_out_where_asked(num, batch_size, sizes):
    found = feed(num, batch_size, drop_single=True)
    assert [len(y) for _, y in found] == sizes
    assert len(found) == len(sizes)
    assert len(feed(num, batch_size)) == -(-num // batch_size)


def test_other_batch_sizes():
    found = feed(7, 3, drop_single=True).resized(2)
    assert labels_of(found) == [[0, 1], [2, 3], [4, 5]]
    assert found.drop_single
    assert labels_of(feed(3, 2).resized(100)) == [[0, 1, 2]]

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from torch.nn import functional as F

from truenorm.errors import UnknownName
from truenorm.lab.images.augment import AUGMENTATIONS, augment, check_augmentations

BOTH = ("crop", "flip")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distinct(n, c, h, w):
    """Images in which no two pixels are the same, and none is 0."""
    return torch.arange(1.0, n * c * h * w + 1).reshape(n, c, h, w)


def crops(image):
    """The 81 parts of one padded image, by their place."""
    _, h, w = image.shape
    padded = F.pad(image, (4, 4, 4, 4))
    return {(top, left): padded[:, top : top + h, left : left + w] for top in range(9) for left in range(9)}


def place(output, image):
    """Where a crop was taken; a plain loop over all there are."""
    (found,) = [where for where, crop in crops(image).items() if torch.equal(crop, output)]
    return found


shapes = st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(5, 9), st.integers(5, 9))
seeds = st.integers(0, 2**31)


@given(shape=shapes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_crop_is_one_of_the_81_shifts(shape, seed):
    images = distinct(*shape)
    for output, image in zip(augment(images, ("crop",), seeded(seed)), images, strict=True):
        place(output, image)


@given(shape=shapes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_flip_is_exact_or_none(shape, seed):
    images = distinct(*shape)
    for output, image in zip(augment(images, ("flip",), seeded(seed)), images, strict=True):
        assert torch.equal(output, image) or torch.equal(output, image.flip(2))


@given(shape=shapes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_both_are_a_crop_that_may_be_mirrored(shape, seed):
    images = distinct(*shape)
    for output, image in zip(augment(images, BOTH, seeded(seed)), images, strict=True):
        assert any(torch.equal(crop, output) or torch.equal(crop.flip(2), output) for crop in crops(image).values())


def test_every_place_and_both_sides_are_equally_likely():
    num = 8100
    images = distinct(1, 1, 5, 5).expand(num, 1, 5, 5)
    seen = {}
    for output in augment(images, ("crop",), seeded()):
        where = place(output, images[0])
        seen[where] = seen.get(where, 0) + 1
    assert len(seen) == 81
    assert sum((count - 100) ** 2 / 100 for count in seen.values()) < 130  # χ² with 80 degrees of freedom: p = 0.0003
    flipped = (augment(images, ("flip",), seeded())[:, 0, 0, 0] != 1).sum().item()
    assert abs(flipped - num / 2) < 4 * (num / 4) ** 0.5


def test_crop_and_flip_are_drawn_independently():
    images = distinct(1, 1, 5, 5).expand(2000, 1, 5, 5)
    lefts = {True: [], False: []}
    known = {
        crop.numpy().tobytes(): (mirrored, where)
        for mirrored in (True, False)
        for where, shifted in crops(images[0]).items()
        for crop in [(shifted.flip(2) if mirrored else shifted).contiguous()]
    }
    tops = []
    for output in augment(images, BOTH, seeded()):
        mirrored, (top, left) = known[output.contiguous().numpy().tobytes()]
        lefts[mirrored].append(left)
        tops.append((top, left))
    means = [torch.tensor(found).double().mean() for found in lefts.values()]
    assert all(abs(mean - 4) < 0.35 for mean in means)  # four standard errors of 1000 draws from 0..8
    both = torch.tensor(tops).double().T
    assert abs(torch.corrcoef(both)[0, 1]) < 0.1


@pytest.mark.parametrize("kinds", [("crop",), ("flip",), BOTH])
def test_equal_generators_give_equal_images(kinds):
    images = torch.randn(16, 3, 8, 8)
    first, again, other = (augment(images, kinds, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = seeded(1)
    augment(images, kinds, generator)
    assert not torch.equal(augment(images, kinds, generator), first)  # the next batch is drawn anew


def test_the_order_of_the_kinds_does_not_matter():
    images = torch.randn(16, 3, 8, 8)
    assert torch.equal(augment(images, BOTH, seeded()), augment(images, BOTH[::-1], seeded()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_dtype_and_images_stay(dtype):
    images = (torch.rand(4, 3, 6, 7) * 255).to(dtype)
    before = images.clone()
    output = augment(images, BOTH, seeded())
    assert (output.dtype, output.shape) == (dtype, images.shape)
    assert torch.equal(images, before)
    # What is done does not depend on the dtype.
    assert torch.equal(output.double(), augment(images.double(), BOTH, seeded()))


def test_all_channels_move_together():
    grey = torch.randn(8, 1, 6, 6)
    output = augment(grey.expand(8, 3, 6, 6), BOTH, seeded())
    assert torch.equal(output, augment(grey, BOTH, seeded()).expand(8, 3, 6, 6))


def test_the_layout_in_memory_does_not_matter():
    images = torch.randn(4, 3, 6, 7)
    other = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(images, BOTH, seeded()), augment(other, BOTH, seeded()))


def test_none_is_nothing():
    images, generator = torch.randn(2, 1, 4, 4), seeded()
    state = generator.get_state()
    assert augment(images, (), generator) is images
    assert torch.equal(generator.get_state(), state)


def test_an_empty_batch():
    assert augment(torch.empty(0, 3, 8, 8), BOTH, seeded()).shape == (0, 3, 8, 8)


def test_global_random_state_stays():
    state = torch.get_rng_state()
    augment(torch.randn(2, 1, 4, 4, generator=seeded()), BOTH, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_goes_where_the_pixel_went():
    images = torch.randn(3, 1, 6, 6, requires_grad=True)
    augment(images, ("flip",), seeded()).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_and_is_not_waited_for():
    images = torch.randn(64, 3, 32, 32)
    expected = augment(images, BOTH, seeded())
    there = images.cuda()
    augment(there, BOTH, seeded())
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = augment(there, BOTH, seeded())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), expected)


def test_what_is_no_augmentation():
    check_augmentations(AUGMENTATIONS)
    with pytest.raises(UnknownName) as caught:
        check_augmentations(["flip", "cutout"])
    assert str(caught.value) == snapshot("unknown augmentation 'cutout'. Known: crop, flip")
    with pytest.raises(UnknownName):
        augment(torch.randn(1, 1, 2, 2), ("crops",), seeded())

"""Encoded images to one uint8 tensor.      N = images, H, W = height, width, C = 1 grey or 3 colour"""

import io
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truenorm.errors import DataUnavailable, extra

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def decode(
    rows: Iterable[Mapping[str, Any] | None], num: int, where: Callable[[int], str], *, size: int | None = None
) -> Tensor:
    """Decode `num` images of one size, or bring them to one.

    Grey images (Pillow's mode L) have one channel, all others become RGB; where both occur the grey
    ones are given three equal channels.

    Args:
        rows: a mapping with `bytes`, or a `path` to read where those are None, for each image.
        num: how many rows there are, >= 1.
        where: says in words which image the i-th row is.
        size: height and width to resize to, as `resized` does; None for the images' own.

    Returns:
        uint8 of shape `(N, C, H, W)`.

    Raises:
        DataUnavailable: an image is missing, cannot be decoded or holds more than 8 bits, or two
            have different sizes.
        MissingExtra: Pillow is not installed.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2), color=7).save(file, "PNG")
        >>> decode([{"bytes": file.getvalue()}], 1, "row {}".format)
        tensor([[[[7, 7, 7],
                  [7, 7, 7]]]], dtype=torch.uint8)
    """
    with extra("lab"):
        pillow: Any = import_module("PIL.Image")
    pixels_NHWC: Pixels | None = None
    for index, row in enumerate(rows):
        pixels = _pixels(pillow, row, where, index)
        pixels = pixels if size is None else _resized(pillow, pixels, size)
        pixels_HWC = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels_NHWC is None:
            pixels_NHWC = np.empty((num, *pixels_HWC.shape), np.uint8)
        if pixels_HWC.shape[:2] != pixels_NHWC.shape[1:3]:
            here, first = pixels_HWC.shape[:2], pixels_NHWC.shape[1:3]
            raise DataUnavailable(
                f"{where(index)} is {extent(here)} and {where(0)} is {extent(first)}; {to_one_size(here, first)}"
            )
        if pixels_HWC.shape[2] > pixels_NHWC.shape[3]:
            pixels_NHWC = np.repeat(pixels_NHWC, 3, axis=3)
        pixels_NHWC[index] = pixels_HWC  # NumPy repeats a grey image over the channels
    assert pixels_NHWC is not None, "the caller asks for one image or more"
    return torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2).contiguous()


def resized(images: Tensor, size: int) -> Tensor:
    """Images brought to `size` × `size` pixels; one that has them keeps every pixel.

    Bilinear, over all pixels that fall together where the image shrinks; the sides' ratio is not kept.

    Args:
        images: uint8 of shape `(N, C, H, W)`.
        size: height and width, >= 1.

    Returns:
        uint8 of shape `(N, C, size, size)`.

    Raises:
        MissingExtra: Pillow is not installed.

    Example:
        >>> resized(torch.tensor([0, 0, 200, 200], dtype=torch.uint8).reshape(1, 1, 2, 2), 1)
        tensor([[[[100]]]], dtype=torch.uint8)
    """
    with extra("lab"):
        pillow: Any = import_module("PIL.Image")
    planes: Pixels = np.empty((images.shape[0] * images.shape[1], size, size), np.uint8)
    for plane, pixels in zip(planes, images.flatten(0, 1).numpy(), strict=True):
        plane[:] = _resized(pillow, pixels, size)
    return torch.from_numpy(planes).reshape(*images.shape[:2], size, size)


def extent(height_width: tuple[int, ...]) -> str:
    """Height and width in words.

    Example:
        >>> extent((28, 32))
        '28x32 pixels'
    """
    return f"{'x'.join(map(str, height_width))} pixels"


def to_one_size(*heights_widths: tuple[int, ...]) -> str:
    """What to do with images of these heights and widths, in words; none of them grows by it.

    Example:
        >>> to_one_size((28, 32), (30, 40))
        'bring all to one size with --image-size 28'
    """
    return f"bring all to one size with --image-size {min(map(min, heights_widths))}"


def _pixels(pillow: Any, row: Mapping[str, Any] | None, where: Callable[[int], str], index: int) -> Pixels:
    encoded = row and (row.get("bytes") or row.get("path"))
    if not encoded:
        raise DataUnavailable(f"{where(index)} holds no image; repair the data set or leave the row out")
    try:
        with pillow.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            mode: str = image.mode
            pixels: Pixels | None = None
            if mode not in ("I", "F") and not mode.startswith("I;"):
                pixels = np.asarray(image if mode in ("L", "RGB") else image.convert("RGB"))
    except Exception as error:  # each of Pillow's decoders has its own errors for damaged files
        raise DataUnavailable(
            f"{where(index)} is damaged or no image ({type(error).__name__}); repair or leave it out"
        ) from error
    if pixels is None:
        # Pillow would clip these to 255 without a word.
        raise DataUnavailable(f"{where(index)} has more than 8 bits per pixel (mode {mode}); convert the set to 8 bits")
    return pixels


def _resized(pillow: Any, pixels: Pixels, size: int) -> Pixels:
    return np.asarray(pillow.fromarray(pixels).resize((size, size), pillow.Resampling.BILINEAR))

"""Random crops and mirror images of a batch, all images at once.

N = images, C = channels, H, W = height, width
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from truenorm.errors import UnknownName

AUGMENTATIONS: Mapping[str, str] = {
    "crop": "moved by up to 4 pixels each way, what comes in from outside is 0",
    "flip": "mirrored left to right, every second image on average",
}
"""What can be done to training images."""

PAD = 4
"""Pixels of 0 around an image that a crop may take in."""


def augment(images: Tensor, kinds: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """Crop and mirror each image of a batch by draws of its own; first the one, then the other.

    - `crop`: of the image with 4 pixels of 0 around it, an H × W part at one of the 81 places, all
      equally likely. In pixels, before they are scaled, 0 is black, which is what lies around a digit.
    - `flip`: left and right exchanged with probability 1/2.

    The draws are made on the CPU, so that equal generators give equal images on every device; nothing
    waits for a GPU.

    Args:
        images: of shape (N, C, H, W), of any dtype.
        kinds: `crop`, `flip`, both in any order, or none.
        generator: on the CPU; what it draws depends on N and the kinds alone.

    Returns:
        a new tensor of the same shape, dtype and device; without kinds the images themselves.

    Raises:
        UnknownName: a kind that is none.

    Source: padding, random crop and flip as He et al. 2016 train on CIFAR.

    Example:
        >>> images = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> augment(images, ("flip",), torch.Generator().manual_seed(1)).tolist()
        [[[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]]]
    """
    check_augmentations(kinds)
    if not kinds:
        return images
    N, C, H, W = images.shape
    rows_1H, columns_1W = torch.arange(H, device=images.device)[None], torch.arange(W, device=images.device)[None]
    if "flip" in kinds:
        (flip_N1,) = _draws(1, N, 2, generator, images.device)
        columns_1W = torch.where(flip_N1 == 1, W - 1 - columns_1W, columns_1W)
    if "crop" in kinds:
        images = F.pad(images, (PAD, PAD, PAD, PAD))
        top_N1, left_N1 = _draws(2, N, 2 * PAD + 1, generator, images.device)
        rows_1H, columns_1W = top_N1 + rows_1H, left_N1 + columns_1W
    places_NHW = rows_1H[:, :, None] * images.shape[3] + columns_1W[:, None, :]
    return images.flatten(2).gather(2, places_NHW.flatten(1)[:, None].expand(N, C, H * W)).reshape(N, C, H, W)


def check_augmentations(kinds: Iterable[str]) -> None:
    """Refuse what is no augmentation.

    Raises:
        UnknownName: a kind that is none of `AUGMENTATIONS`.

    Example:
        >>> check_augmentations(["crop", "flop"])
        Traceback (most recent call last):
        truenorm.errors.UnknownName: unknown augmentation 'flop'; did you mean 'flip'? Known: crop, flip
    """
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            raise UnknownName("augmentation", kind, AUGMENTATIONS)


def _draws(num: int, images: int, below: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Integers in 0..below-1 of shape (num, images, 1), on the device."""
    drawn = torch.randint(below, (num, images, 1), generator=generator)
    # From pinned memory the copy is made behind the GPU's work, not after waiting for it.
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)

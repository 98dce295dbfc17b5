"""Images as another camera might give them: less contrast, noise, blur.

N = images, C = channels, H, W = height, width
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

CONTRAST = 0.5
"""What is left of each pixel's distance from the mean of its image."""

NOISE = 0.3
"""Standard deviation of the noise, of the 255 that a pixel can have."""

BLUR = 0.1
"""Standard deviation of the Gaussian that the image is blurred by, of its height."""


def contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel goes towards the mean of its image.

    Example:
        >>> image = torch.tensor([0, 200], dtype=torch.uint8).view(1, 1, 1, 2)
        >>> contrast(image, torch.Generator()).flatten().tolist()
        [50, 150]
    """
    pixels = images.float()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return _as_pixels(mean + CONTRAST * (pixels - mean))


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise on each pixel by itself; what leaves 0 to 255 is cut off.

    Example:
        >>> noise(torch.full((1, 1, 2, 2), 128, dtype=torch.uint8), torch.Generator()).dtype
        torch.uint8
    """
    drawn = torch.randn(images.shape, generator=generator)
    return _as_pixels(images.float() + 255 * NOISE * drawn)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel becomes a mean of those around it, weighted by a Gaussian; beyond the edge the image is mirrored.

    Example:
        >>> blur(torch.full((1, 1, 8, 8), 9, dtype=torch.uint8), torch.Generator()).unique().tolist()
        [9]
    """
    std = BLUR * images.shape[2]
    reach = min(round(3 * std), min(images.shape[2:]) - 1)
    weights = torch.exp(-(torch.arange(-reach, reach + 1).float() / std).square() / 2)
    weights /= weights.sum()
    each = images.float().flatten(0, 1)[:, None]
    mirrored = F.pad(each, (reach,) * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(mirrored, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return _as_pixels(blurred.view(images.shape))


def _as_pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "low contrast": contrast,
    "noisy": noise,
    "blurred": blur,
}
"""What images become → uint8 images (N, C, H, W), and what draws → such images."""

"""Images in memory as the batches that training, passes and evaluation read."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from truenorm.lab.images.sets import ImageSet, Split

EVALUATION_BATCH = 1000
"""Images per batch where nothing depends on it."""

Part = Literal["train", "validation", "test"]
"""Of a data set."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Takes pixels to mean 0 and standard deviation 1 in each channel of the training images."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(images: Tensor) -> "Scale":
        """From uint8 images of shape (N, C, H, W); a constant channel keeps its scale.

        Example:
            >>> scale = Scale.of(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
            >>> scale(torch.tensor([[[[255]]]], dtype=torch.uint8)).item()
            1.0
        """
        counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
        share = counts.double() / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64)
        mean = share @ values
        std = (share * (values - mean[:, None]).square()).sum(1).sqrt()
        std = torch.where(std > 0, std, 255.0)
        return Scale(mean.float()[:, None, None], std.float()[:, None, None])

    def to(self, device: torch.device) -> "Scale":
        """The same for images on this device."""
        return Scale(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean.to(images.device)) / self.std.to(images.device)


@dataclass(frozen=True, slots=True)
class Feed:
    """A split's batches, (images, labels), in its own order: the same every time it is read.

    Args:
        split: images and labels, on the device that computes.
        scale: of the training images.
        batch_size: images per batch; the last may be smaller.
        drop_single: leave out a last batch of one image: batch norm cannot train on it.
    """

    split: Split
    scale: Scale
    batch_size: int
    drop_single: bool = False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.in_order(torch.arange(len(self.split)))

    def __len__(self) -> int:
        """Batches."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not (rest == 1 and full > 0 and self.drop_single))

    def in_order(
        self, order: Tensor, vary: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the images taken in this order; `vary` sees them as pixels, before they are scaled."""
        for rows in order.to(self.split.labels.device).split(self.batch_size)[: len(self)]:
            yield self.scale(vary(self.split.images[rows])), self.split.labels[rows]

    def resized(self, batch_size: int) -> "Feed":
        """The same images in batches of another size."""
        return replace(self, batch_size=batch_size)


@dataclass(frozen=True, slots=True)
class ScaledImages:
    """A data set and the scale of its training images: what a network is trained on.

    Args:
        images: the data set, on the device that computes.
        scale: of its training images.
    """

    images: ImageSet
    scale: Scale

    def feed(self, part: Part, batch_size: int) -> Feed:
        """The batches of a part, in its own order; of the training part as training takes them."""
        split: Split = getattr(self.images, part)
        return Feed(split, self.scale, batch_size, drop_single=part == "train")

    @property
    def pixels(self) -> tuple[str, list[int]]:
        """Identifies the data: a hash of every pixel and label; the number of classes and the shape of an image."""
        content = hashlib.sha256()
        for part in (self.images.train, self.images.validation, self.images.test):
            content.update(part.images.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes())
        return content.hexdigest(), [len(self.images.classes), *self.images.train.images.shape[1:]]

"""A convolutional network on images of digits: batch norm per channel, over the batch and all positions."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import truenorm as tn


class Found(NamedTuple):
    layer: str
    """The batch norm, as it shows itself."""
    maps: tuple[int, ...]
    """The shape of what the layer gets, (N, C, H, W)."""
    statistics: tuple[int, ...]
    """The shape of its running mean."""
    mean_off: float
    var_off: float
    """By how much, at most, the running statistics are not those of the first batch."""
    accuracy: float
    images: int
    alone_off: float
    """By how much, at most, an image's logits depend on the batch that it is in."""
    back: type[nn.Module]
    """What the layer is when it is converted back."""


def run() -> Found:
    torch.manual_seed(0)
    digits = load_digits()  # 1,797 images of 8×8, which come with scikit-learn
    order = torch.randperm(len(digits.target))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    train, test = slice(0, 1400), slice(1400, None)

    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    tn.convert(network)  # in place; the same as to write tn.nn.BatchNorm2d
    convolution, norm = network[:2]
    layer = str(norm)

    # One mean and one variance for each of 16 channels; after one batch the running statistics are those of the batch.
    batch = images[train][:32]
    network(batch)
    with torch.no_grad():
        maps = convolution(batch)
    mean_off = (norm.running_mean - maps.mean((0, 2, 3))).abs().max()
    var_off = (norm.running_var - maps.var((0, 2, 3), correction=0)).abs().max()

    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(5):
        for rows in torch.randperm(1400).split(32):
            loss = F.cross_entropy(network(images[train][rows]), labels[train][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    network.eval()
    with torch.no_grad():
        together = network(images[test])
        alone = torch.cat([network(image) for image in images[test].split(1)])
    return Found(
        layer=layer,
        maps=tuple(maps.shape),
        statistics=tuple(norm.running_mean.shape),
        mean_off=mean_off.item(),
        var_off=var_off.item(),
        accuracy=(together.argmax(1) == labels[test]).float().mean().item(),
        images=len(together),
        alone_off=(together - alone).abs().max().item(),
        back=type(tn.convert(network, to="torch")[1]),
    )


def show(found: Found) -> None:
    print(found.layer)
    print(f"{found.maps} (N, C, H, W) → {found.statistics}; after one batch", end=" ")
    print(f"the mean is off by {found.mean_off:.0e}, the variance by {found.var_off:.0e}")
    print(f"test accuracy {100 * found.accuracy:.1f} % of {found.images} images")
    print(f"an image alone or among {found.images}: logits differ by at most {found.alone_off:.0e}")
    print(f"and back: {found.back.__module__}")


if __name__ == "__main__":
    show(run())

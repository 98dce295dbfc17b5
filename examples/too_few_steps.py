"""Good in train(), bad in eval(): a momentum of 0.001 (Keras's 0.999), and 300 steps are too few for that.

    python examples/too_few_steps.py best.pt
    truenorm diagnose --model examples/too_few_steps.py:make --checkpoint best.pt \\
        --data examples/too_few_steps.py:held_out
    truenorm repair --model examples/too_few_steps.py:make --checkpoint best.pt \\
        --data examples/too_few_steps.py:training --out mended.pt
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


def make() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16, momentum=0.001),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32, momentum=0.001),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def training() -> list[tuple[Tensor, Tensor]]:
    return _batches(slice(0, 1200))


def held_out() -> list[tuple[Tensor, Tensor]]:
    return _batches(slice(1200, None))


def _batches(part: slice) -> list[tuple[Tensor, Tensor]]:
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[part]
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    return list(zip(images.split(32), labels.split(32), strict=True))


def train(checkpoint: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on each run; another kind of processor may round otherwise
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(8):
        for images, labels in training():
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(model.state_dict(), checkpoint)


def right(checkpoint: str, mode: str) -> float:
    """The part of the held-out images that the network knows, in train() or in eval()."""
    model = make()
    model.load_state_dict(torch.load(checkpoint))
    model.train(mode == "train")
    with torch.no_grad():
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in held_out()) / 597


def main(checkpoint: str) -> None:
    train(checkpoint)
    for mode in ("train", "eval"):
        print(f"{mode}(): {right(checkpoint, mode):.1%} right")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "best.pt")

"""What our layers cost against torch's: a training step, inference, and memory.

The networks are the same but for the layers (`convert`). Memory is the peak of what torch allocates on the
way through one training step, parameters and optimizer not counted.
"""

import copy
from collections.abc import Callable

import torch
from pairing import arguments, ratios, save, say
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import truenorm as tn
from truenorm.lab.networks.plain import cnn, mlp

SHAPE = (1, 28, 28)


class Residual(nn.Module):
    """x + what two convolutions make of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def residual() -> nn.Module:
    """A stem and three residual blocks of 16 channels: seven batch norms."""
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*stem, *(Residual(16) for _ in range(3)), *head)


def training(network: nn.Module, images: Tensor, labels: Tensor, *, steps: int) -> Callable[[], None]:
    """So many training steps of the network."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def run() -> None:
        for _ in range(steps):
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def inference(network: nn.Module, images: Tensor, *, steps: int) -> Callable[[], None]:
    """So many forwards in evaluation mode."""
    network.eval()

    def run() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                network(images)

    return run


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that torch had allocated at once during a step, above what it had before."""
    step()  # gradients and the optimizer's state are there from here on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():  # in order of time, as allocated and freed
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> None:
    options = arguments(__doc__, pairs=50)
    torch.manual_seed(0)
    networks = {
        "mlp 500-300, batch 64": (mlp(SHAPE, 10, widths=(500, 300), norm_layer=nn.BatchNorm1d), 64, 32),
        "mlp 128-64, batch 32": (mlp(SHAPE, 10, widths=(128, 64), norm_layer=nn.BatchNorm1d), 32, 128),
        "cnn, batch 64": (cnn(SHAPE, 10, norm_layer=nn.BatchNorm2d), 64, 8),
        "residual, batch 32": (residual(), 32, 8),
    }
    results: dict[str, list[float]] = {}
    for name, (network, batch, steps) in networks.items():
        images, labels = torch.randn(batch, *SHAPE), torch.randint(0, 10, (batch,))
        torchs, ours, again = network, tn.convert(copy.deepcopy(network)), copy.deepcopy(network)
        peaks = [peak_bytes(training(side, images, labels, steps=1)) for side in (torchs, ours)]
        results[f"{name}: peak memory of a step"] = [peaks[1] / peaks[0]]
        print(f"{name}: peak memory of a step {peaks[1]} bytes, torch's {peaks[0]}", flush=True)
        for what, side in (("torch's again", again), ("ours", ours)):
            for kind in ("step", "inference"):
                sides = [
                    training(one, images, labels, steps=steps)
                    if kind == "step"
                    else inference(one, images, steps=3 * steps)
                    for one in (side, torchs)
                ]
                found = results[f"{name}: {kind}, {what}"] = ratios(*sides, pairs=options.pairs)
                say(f"{name}: {kind}, {what}", found)
    save(results, options, side="process time with the layers named over torch's; memory: bytes over bytes")


if __name__ == "__main__":
    main()

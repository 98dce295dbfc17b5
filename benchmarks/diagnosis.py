"""What `diagnose` costs: samples that pass through the network, for each sample that is looked at; and time.

Networks of four batch norms on images of six classes 16 × 16, sound and broken in known ways. Passes are counted by a
hook on the network, which its copies have, too. Time is that of a diagnosis over as many plain evaluation passes.
A ResNet-50 shows how many images of 224 × 224 are chosen where the network is slow, and the seconds that they take.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from pairing import arguments, ratios, save, say
from torch import Tensor, nn
from torch.nn import functional as F

import truenorm as tn

CLASSES = 6
HEALTHY, BROKEN = 5, 8
"""Passes that a diagnosis may make."""

IMAGES, SECONDS = 64, 150
"""Of a ResNet-50: images that are measured and scored at least, and what that may take."""

Batches = list[tuple[Tensor, Tensor]]


def batches(seed: int, *, num: int = 64, size: int = 32) -> Batches:
    """Noise around a smooth picture for each class, far from 0."""
    pictures = F.interpolate(torch.randn(CLASSES, 1, 4, 4, generator=torch.Generator().manual_seed(0)), (16, 16))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num * size,), generator=generator)
    images = 0.5 + pictures[labels] + torch.randn(num * size, 1, 16, 16, generator=generator)
    return cut(images, labels, size)


def cut(images: Tensor, labels: Tensor, size: int = 32) -> Batches:
    return list(zip(images.split(size), labels.split(size), strict=True))


def joined(data: Batches) -> tuple[Tensor, Tensor]:
    images, labels = zip(*data, strict=True)
    return torch.cat(images), torch.cat(labels)


class Functional(nn.Module):
    """Dropout that is no module."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, self.training)


def mlp(between: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    layers: list[nn.Module] = [nn.AvgPool2d(4), nn.Flatten()]
    for before, width in zip((16, 64, 48, 32), (64, 48, 32, 32), strict=True):
        layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), between()]
    return nn.Sequential(*layers, nn.Linear(32, CLASSES))


def cnn(between: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    layers: list[nn.Module] = []
    for before, width, stride in zip((1, 16, 16, 32), (16, 16, 32, 32), (1, 2, 1, 2), strict=True):
        conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(), between()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


NETWORKS = {"mlp": mlp, "cnn": cnn}


def norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def trained(network: nn.Module, data: Batches) -> nn.Module:
    optimizer = torch.optim.SGD(network.train().parameters(), 0.05, momentum=0.9)
    for images, labels in data:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return averaged(network, data, None)


def averaged(network: nn.Module, data: Batches, momentum: float | None) -> nn.Module:
    """torch's running average of these batches, with the weights as they are; a momentum of None is 0.1 afterwards."""
    for layer in norms(network):
        layer.reset_running_stats()
        layer.momentum = momentum
    with torch.no_grad():
        for images, _ in data:
            network.train()(images)
    for layer in norms(network):
        layer.momentum = 0.1 if momentum is None else momentum
    return network.eval()


def broken(kind: str, make: Callable[..., nn.Module]) -> tuple[nn.Module, Batches]:
    """The network, and the held-out data that it is examined on."""
    torch.manual_seed(0)
    data, held_out = batches(1, num=256), batches(2)
    between = {"dropout": partial(nn.Dropout, 0.3), "F.dropout": Functional}.get(kind, nn.Identity)
    dark = 0.01 if kind == "eps" else 1.0
    data, held_out = ([(dark * x, y) for x, y in part] for part in (data, held_out))
    network = make(between)
    if kind == "eps":
        for layer in norms(network):
            layer.eps = 1e-3
    images, labels = joined(data)
    network = trained(network, cut(images, labels, 4)[:1000] if kind == "tiny batches" else data)
    match kind:
        case "initial values":
            averaged(network, data[:40], 0.02)
        case "sorted batches":
            order = labels.argsort(stable=True)
            averaged(network, cut(images[order], labels[order]), 0.1)
        case "tiny batches":
            averaged(network, cut(images, labels, 4), None)
        case "preprocessing":
            held_out = [(4 * x + 5, y) for x, y in held_out]
        case "eps":
            for layer in norms(network):
                layer.eps = 1e-5
        case "common factor":
            for layer in norms(network):
                layer.running_mean *= 7
                layer.running_var *= 7
        case "no cause fits":
            unlike(network)
        case _:
            pass
    return network, held_out


def unlike(network: nn.Module) -> None:
    """Every channel is off in its own way: no cause explains it, so all are looked for."""
    generator = torch.Generator().manual_seed(0)
    for layer in norms(network):
        channels = layer.num_features
        layer.running_mean += layer.running_var.sqrt() * torch.randn(channels, generator=generator)
        layer.running_var *= torch.exp(0.6 * torch.randn(channels, generator=generator))


KINDS = (
    "healthy",
    "initial values",
    "dropout",
    "F.dropout",
    "sorted batches",
    "preprocessing",
    "tiny batches",
    "eps",
    "common factor",
    "no cause fits",
)


def counted(network: nn.Module, data: Any) -> tuple[tn.Diagnosis, float]:
    """The diagnosis, and the samples that passed through the network or a copy of it, for each that was looked at."""
    passed = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passed
        passed += len(inputs[0])

    handle = network.register_forward_pre_hook(count)
    diagnosis = tn.diagnose(network, data)
    handle.remove()
    assert diagnosis.looked is not None
    return diagnosis, passed / (diagnosis.looked.measured + diagnosis.looked.scored)


def evaluated(network: nn.Module, data: Batches, times: int) -> None:
    with torch.no_grad():
        for _ in range(times):
            for images, _ in data:
                network(images)


def allowed(kind: str) -> int:
    return HEALTHY if kind == "healthy" else BROKEN


def resnet50() -> nn.Module:
    """torchvision's with random weights, and statistics of which a part is that of the first values."""
    try:  # the wheel may be made for another build of torch
        operators = torch.library.Library("torchvision", "FRAGMENT")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        operators = None
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    return averaged(network, list(pictures(2)), None)


def pictures(num: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(num):
        images = F.interpolate(torch.randn(16, 3, 14, 14, generator=generator), (224, 224), mode="bilinear")
        yield images, torch.randint(0, 1000, (16,), generator=generator)


def main() -> None:
    options = arguments(__doc__.splitlines()[0], pairs=5)
    results: dict[str, list[float]] = {}
    missed: list[str] = []
    for name, make in NETWORKS.items():
        for kind in KINDS:
            network, data = broken(kind, make)
            diagnosis, passes = counted(network, data)
            what = f"{name}, {kind}"
            results[f"{what}: passes"] = [passes]
            if passes > allowed(kind):
                missed.append(f"{what}: {passes:.2f} passes")
            print(
                f"{what:30} {passes:.2f} passes of {allowed(kind)}  {[f.cause for f in diagnosis.causes]}", flush=True
            )
            times = math.ceil(passes)
            plain = partial(evaluated, network, data, times)
            pairs = ratios(lambda n=network, d=data: tn.diagnose(n, d), plain, pairs=options.pairs, warm_up=1)  # type: ignore[arg-type, return-value]  # what they give is not used
            results[f"{what}: time"] = [ratio * times / passes for ratio in pairs]
            say(f"{what}: time over plain passes", results[f"{what}: time"])
    for kind in ("healthy", "no cause fits"):
        network = resnet50()
        if kind != "healthy":
            unlike(network)
        start = time.perf_counter()
        diagnosis, passes = counted(network, pictures(125))
        seconds = time.perf_counter() - start
        assert diagnosis.looked is not None
        what = f"resnet50 at 224, {kind}"
        looked = diagnosis.looked
        print(f"{what}: {looked.measured} + {looked.scored} images, {passes:.2f} passes, {seconds:.0f} s", flush=True)
        for metric, value in (("images", looked.limit), ("passes", passes), ("seconds", seconds)):
            results[f"{what}: {metric}"] = [float(value or 0)]
        if passes > allowed(kind) or seconds > SECONDS or min(looked.measured, looked.scored) < IMAGES:
            missed.append(what)
    save(results, options, side="passes: samples that ran, over samples looked at; process time; seconds of the clock")
    if missed:
        raise SystemExit("; ".join(["more than is allowed", *missed]))


if __name__ == "__main__":
    main()

"""The oracle of the one run: plain torch, a training for each momentum, in a process without truenorm.

    python -I plain_torch.py JOB.pt RESULT.pt

The job is plain values: images (uint8) and labels, the network's name, seed, batch size, epochs, rate, weight
decay, momenta. The result: momentum → the state dict after training (weights, buffers, counts).
"""

import math
import sys
from collections import OrderedDict

import torch
from torch import nn


def named(*layers):
    """Each layer by its kind and how many of that kind there are by then; the last gives the classes."""
    kinds = {"Linear": "linear", "Conv2d": "conv", "BatchNorm1d": "norm", "BatchNorm2d": "norm"}
    names = []
    for layer in layers[:-1]:
        kind = kinds.get(type(layer).__name__, type(layer).__name__)
        names.append(f"{kind}{1 + sum(name.startswith(kind) for name in names)}")
    return nn.Sequential(OrderedDict(zip([*names, "classes"], layers, strict=True)))


def mlp(classes, momentum):
    return named(
        nn.Flatten(),
        nn.Linear(64, 20, bias=False),
        nn.BatchNorm1d(20, momentum=momentum),
        nn.ReLU(),
        nn.Linear(20, 12, bias=False),
        nn.BatchNorm1d(12, momentum=momentum),
        nn.ReLU(),
        nn.Linear(12, classes),
    )


def cnn(classes, momentum):
    return named(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8, momentum=momentum),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32, momentum=momentum),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def scaled(pixels):
    """Mean 0 and standard deviation 1 over all images."""
    exact = pixels.double()
    return (pixels.float() - exact.mean().float()) / exact.std(correction=0).float()


def batches(order, size):
    """Cut into batches; a last one of a single image is left out."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return parts[:-1] if len(parts[-1]) == 1 else parts


def trained(job, momentum):
    torch.manual_seed(job["seed"])
    network = {"mlp": mlp, "cnn": cnn}[job["network"]](job["classes"], momentum)
    network.train()
    images, labels = scaled(job["images"]), job["labels"]
    optimizer = torch.optim.SGD(network.parameters(), lr=job["lr"], momentum=0.9, weight_decay=job["weight_decay"])
    shuffling = torch.Generator().manual_seed(job["seed"])
    num_steps = job["epochs"] * len(batches(torch.arange(len(labels)), job["batch_size"]))
    warm_up, step = min(100, num_steps // 10), 0
    for _ in range(job["epochs"]):
        for rows in batches(torch.randperm(len(labels), generator=shuffling), job["batch_size"]):
            if step < warm_up:
                factor = (step + 1) / warm_up
            else:
                factor = (1 + math.cos(math.pi * (step - warm_up) / (num_steps - warm_up))) / 2
            for group in optimizer.param_groups:
                group["lr"] = job["lr"] * factor
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return network.state_dict()


if __name__ == "__main__":
    assert sys.flags.isolated
    torch.set_num_threads(1)
    job = torch.load(sys.argv[1])
    results = {momentum: trained(job, momentum) for momentum in job["momenta"]}
    assert not [name for name in sys.modules if name.partition(".")[0] == "truenorm"]
    torch.save(results, sys.argv[2])

"""A training loop of your own, watched: every momentum from one run, then the best statistics put in place."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

import truenorm as tn


class Found(NamedTuple):
    trained: float
    """Accuracy with the statistics that training left."""
    others: dict[str, tuple[float, float]]
    """Accuracy, and shift in σ, of the same weights with other statistics."""
    assigned: dict[str, float]
    """The momentum of each layer whose statistics were put in place."""


def accuracy(network: nn.Module, test_set: Dataset) -> float:
    """In evaluation mode, on the test images."""
    network.eval()
    with torch.no_grad():
        right = sum((network(x).argmax(1) == y).sum().item() for x, y in DataLoader(test_set, batch_size=397))
    network.train()
    return right / len(test_set)


def run() -> Found:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    train_set, test_set = random_split(TensorDataset(images, torch.tensor(digits.target)), [1400, 397])
    loader = DataLoader(train_set, batch_size=4, shuffle=True)

    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)

    with tn.watch(network, [tn.rules.Static(), tn.rules.Pooled(tn.rules.SWEEP), tn.rules.Adaptive()]) as watched:
        for _ in range(4):  # your loop, unchanged
            for x, y in loader:
                loss = F.cross_entropy(network(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    population = tn.measure(network, loader)
    trained = accuracy(network, test_set)
    others = {}
    for name, statistics in {
        "best momentum of each layer": watched.best(population),
        "the same, pooled": watched.best(population, among="pooled"),
        "adaptive, no pass over data": watched["adaptive"],
        "the population's own": population,
    }.items():
        with tn.using(network, statistics):
            others[name] = accuracy(network, test_set), tn.estimation_shift(statistics, population).mean

    tn.assign(network, watched["adaptive"])  # it gives what was there before: tn.assign(network, that) would undo it
    return Found(trained, others, watched["adaptive"].momenta)


def show(found: Found) -> None:
    print(f"as trained (momentum 0.1)      {100 * found.trained:.1f} %")
    for name, (right, shift) in found.others.items():
        print(f"{name:30} {100 * right:.1f} %   shift {shift:.3f} σ")
    print(f"assigned: {found.assigned}")


if __name__ == "__main__":
    show(run())

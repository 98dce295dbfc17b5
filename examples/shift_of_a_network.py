"""How far are a trained network's running statistics from its data's? In a terminal, and as a notebook shows it."""

import torch
from rich import print
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import truenorm as tn


def run() -> tuple[tn.ShiftReport, tn.ShiftReport]:
    """The shift from the population's statistics, and from what really arrives at a layer at inference."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)

    # A short training with a small momentum: much of the initial 0 and 1 is still stored.
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU(),
        nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16, momentum=0.01), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for rows in torch.randperm(len(images)).split(32):
        loss = F.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    batches = images.split(32)
    stored = tn.statistics(network)
    report = tn.estimation_shift(stored, tn.measure(network, batches))
    # The same network in evaluation mode, errors below inherited.
    return report, tn.estimation_shift(stored, tn.measure(network, batches, flow="eval"))


def show(report: tn.ShiftReport, arriving: tn.ShiftReport) -> None:
    print(report)
    print(arriving)
    # A notebook shows `report` as a table by itself; anywhere else it is text to put where you like.
    print(report._repr_html_()[:60], "...")
    print({layer: round(figures["shift"], 3) for layer, figures in report.to_dict().items()})


if __name__ == "__main__":
    show(*run())

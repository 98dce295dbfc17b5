"""Dense, batch norm, ReLU and dropout, twice, with L2 on the weights: a network of Keras tutorials, in PyTorch."""

from collections import OrderedDict
from typing import NamedTuple

import torch
from rich import box, print
from rich.table import Table
from torch import nn

import truenorm as tn


class Layer(NamedTuple):
    name: str
    kind: str
    width: int
    """Of what it gives: shape (N, width)."""
    parameters: int
    """With running means and variances, as Keras counts."""
    trainable: int


class Found(NamedTuple):
    layers: list[Layer]
    loss: float
    accuracy: float
    samples: int
    alone_off: float
    """By how much, at most, a sample's output depends on the batch that it is in."""


def make() -> nn.Sequential:
    # Keras's defaults are momentum 0.99 and ε 0.001; torch's momentum is the weight of the new batch, 1 − 0.99.
    keras = {"momentum": 0.01, "eps": 1e-3}
    network = nn.Sequential(
        OrderedDict(
            dense=nn.Linear(20, 64),
            batch_norm=tn.nn.BatchNorm1d(64, **keras),
            relu=nn.ReLU(),
            dropout=nn.Dropout(0.3),
            dense_1=nn.Linear(64, 32),
            batch_norm_1=tn.nn.BatchNorm1d(32, **keras),
            relu_1=nn.ReLU(),
            dropout_1=nn.Dropout(0.2),
            dense_2=nn.Sequential(nn.Linear(32, 1), nn.Sigmoid()),
        )
    )
    for layer in network.modules():
        if isinstance(layer, nn.Linear):  # as Keras initialises them
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def summary(network: nn.Sequential) -> list[Layer]:
    """What Keras's summary() says. It counts running means and variances as parameters that are not trained."""
    layers: list[Layer] = []
    shown = torch.zeros(1, 20)
    for name, layer in network.eval().named_children():
        shown = layer(shown)
        learned = sum(parameter.numel() for parameter in layer.parameters())
        stored = sum(buffer.numel() for key, buffer in layer.named_buffers() if key.startswith("running_"))
        kind = "Linear, Sigmoid" if name == "dense_2" else type(layer).__name__
        layers.append(Layer(name, kind, shown.shape[1], learned + stored, learned))
    return layers


def run() -> Found:
    torch.manual_seed(0)
    network = make()
    layers = summary(network)
    x = torch.randn(2000, 20)
    y = (x[:, :2].sum(1, keepdim=True) > 0).float()  # something that can be learned
    train, test = slice(0, 1500), slice(1500, None)

    # kernel_regularizer=l2(0.01) adds 0.01 · Σw² of these two layers to the loss; the output layer has none.
    kernels = network.dense.weight, network.dense_1.weight
    optimizer = torch.optim.Adam(network.parameters(), 0.001, eps=1e-7)  # Keras's ε; torch's is 1e-8
    cross_entropy = nn.BCELoss()
    network.train()
    for _ in range(30):
        for rows in torch.randperm(1500).split(32):
            penalty = 0.01 * sum(kernel.square().sum() for kernel in kernels)
            loss = cross_entropy(network(x[train][rows]), y[train][rows]) + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    network.eval()
    with torch.no_grad():
        together = network(x[test])
        alone = torch.cat([network(row) for row in x[test].split(1)])
    return Found(
        layers=layers,
        loss=cross_entropy(together, y[test]).item(),
        accuracy=((together > 0.5) == (y[test] > 0.5)).float().mean().item(),
        samples=len(together),
        alone_off=(together - alone).abs().max().item(),
    )


def show(found: Found) -> None:
    table = Table("layer", "type", "output shape", box=box.SIMPLE)
    for column in ("parameters", "trainable"):
        table.add_column(column, justify="right")
    for layer in found.layers:
        sizes = f"{layer.parameters:,}", f"{layer.trainable:,}"
        table.add_row(layer.name, layer.kind, f"(N, {layer.width})", *sizes)
    print(table)
    total, trainable = (sum(getattr(layer, what) for layer in found.layers) for what in ("parameters", "trainable"))
    print(f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} not trainable")
    print(f"test loss {found.loss:.3f}, test accuracy {100 * found.accuracy:.1f} %")
    print(f"a sample alone or among {found.samples}: outputs differ by at most {found.alone_off:.0e}")


if __name__ == "__main__":
    show(run())

"""What watching costs: training steps of one network, watched over plain.

Plain over plain is timed in the same way: it shows what the machine's noise does to a ratio of 1.
"""

import copy
from collections.abc import Callable

import torch
from pairing import arguments, ratios, save, say
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.lab.networks.plain import cnn, mlp
from truenorm.lab.networks.resnet import RESNETS

SWEEP = (tn.rules.Static(),)
STREAM = (
    tn.rules.Static(),
    tn.rules.Cumulative(),
    tn.rules.Pooled(tn.rules.SWEEP),
    tn.rules.Population("last-epoch", epochs=True),
    tn.rules.Adaptive(),
    tn.rules.Online(),
    tn.rules.Switched("dmbn-switch"),
)
SHAPE = (1, 28, 28)


def training(network: nn.Module, rules: tuple[tn.rules.Rule, ...], *, batch: int, steps: int) -> Callable[[], None]:
    """So many steps of a copy of the network, which stays watched between calls."""
    mine = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(mine.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(batch, *SHAPE), torch.randint(0, 10, (batch,))
    if rules:
        tn.watch(mine, rules).__enter__()

    def run() -> None:
        for _ in range(steps):
            loss = F.cross_entropy(mine(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def main() -> None:
    options = arguments(__doc__, pairs=60)
    torch.manual_seed(0)
    networks = {
        "mlp 500-300, batch 64": (mlp(SHAPE, 10, widths=(500, 300)), 64, 32),
        "cnn, batch 64": (cnn(SHAPE, 10), 64, 32),
        "resnet18-w16, batch 64": (RESNETS["resnet18-w16"](SHAPE, 10), 64, 4),
        "mlp 6 x 128, batch 4": (mlp(SHAPE, 10, widths=(128,) * 6), 4, 64),
    }
    results: dict[str, list[float]] = {}
    for name, (network, batch, steps) in networks.items():
        for what, rules in (("plain again", ()), ("16 momenta", SWEEP), ("every stream rule", STREAM)):
            watched = training(network, rules, batch=batch, steps=steps)
            plain = training(network, (), batch=batch, steps=steps)
            found = results[f"{name}: {what}"] = ratios(watched, plain, pairs=options.pairs)
            say(f"{name}: {what}", found)
    save(results, options, side="process time of watched over plain training steps")


if __name__ == "__main__":
    main()

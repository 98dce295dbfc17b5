"""What layers cost that choose their momentum: training steps with `tracking="dynamic"` over torch's layers.

torch's layers over themselves are timed in the same way: it shows what the machine's noise does to a ratio of 1.
"""

import copy

import torch
from pairing import arguments, ratios, save, say
from watching import SHAPE, training

from truenorm.lab.networks.norms import choose_momenta
from truenorm.lab.networks.plain import cnn, mlp
from truenorm.lab.networks.resnet import RESNETS


def main() -> None:
    options = arguments(__doc__, pairs=60)
    torch.manual_seed(0)
    networks = {
        "cnn, batch 64": (cnn(SHAPE, 10), 64, 32),
        "resnet18-w16, batch 64": (RESNETS["resnet18-w16"](SHAPE, 10), 64, 4),
        "mlp 500-300, batch 64": (mlp(SHAPE, 10, widths=(500, 300)), 64, 32),
        "cnn, batch 4": (cnn(SHAPE, 10), 4, 64),
        "resnet18-w16, batch 4": (RESNETS["resnet18-w16"](SHAPE, 10), 4, 8),
        "mlp 6 x 128, batch 4": (mlp(SHAPE, 10, widths=(128,) * 6), 4, 64),
    }
    results: dict[str, list[float]] = {}
    for name, (network, batch, steps) in networks.items():
        choosing = copy.deepcopy(network)
        choose_momenta(choosing)
        for what, side in (("torch's again", network), ("dynamic", choosing)):
            sides = (training(each, (), batch=batch, steps=steps) for each in (side, network))
            found = results[f"{name}: {what}"] = ratios(*sides, pairs=options.pairs)
            say(f"{name}: {what}", found)
    save(results, options, side="process time of training steps with the layers named over those with torch's layers")


if __name__ == "__main__":
    main()

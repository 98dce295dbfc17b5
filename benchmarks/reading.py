"""Reading every rule of a watch with 31 batches that are not folded yet, over folding these once."""

import torch
from pairing import arguments, ratios, save, say
from torch import nn

import truenorm as tn
from truenorm.model.stream import BLOCK


def main() -> None:
    options = arguments(__doc__, pairs=30)
    layers = [part for _ in range(20) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64))]
    rules = (tn.rules.Static(), tn.rules.Cumulative(), tn.rules.Pooled(), tn.rules.Adaptive())
    with tn.watch(nn.Sequential(*layers), rules) as watched:
        for _ in range(BLOCK - 1):
            watched._model(torch.randn(8, 64))

        def folded() -> None:
            for stream in watched._streams:
                stream._forget()
                stream._folded()

        def read() -> None:
            folded()
            dict(watched)

        what = f"all {len(watched)} rules of 20 layers read, over one fold"
        found = ratios(read, folded, pairs=options.pairs)
    say(what, found)
    save({what: found}, options, side="process time")


if __name__ == "__main__":
    main()

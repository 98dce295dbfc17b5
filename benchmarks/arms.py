"""The whole table of arms from one training, against one training per momentum.

The naive way trains and evaluates a network for each of the 16 momenta and for momentum=None, with torch's
layers, and gets 17 of the arms so; ours trains once, watched, and measures every arm that is not a network
of its own: 27 ways of having statistics, their shift in three flows included.
"""

from collections import deque

import torch
from pairing import arguments, ratios, save, say
from torch import nn

import truenorm as tn
from truenorm.data.feed import EVALUATION_BATCH
from truenorm.data.images import load
from truenorm.study.arms import resolve, sweep
from truenorm.study.configuration import StudyConfig, Trial
from truenorm.study.networks import cnn, mlp
from truenorm.study.training import predict, train
from truenorm.study.trial import Bench, recipe, run


def main() -> None:
    options = arguments(__doc__.splitlines()[0], pairs=6)
    images = load("digits")
    config = StudyConfig(epochs=20, arms=("all",))
    arms, _ = resolve(("all",), ())
    shape, classes = (1, 8, 8), len(images.classes)
    networks = {
        "mlp 128-64": lambda norm: mlp(shape, classes, norm_layer=norm, widths=(128, 64)),
        "cnn": lambda norm: cnn(shape, classes, norm_layer=norm),
    }
    results: dict[str, list[float]] = {}
    for name, make in networks.items():
        bench = Bench(images, make, arms, sweep(()), torch.device("cpu"))
        trial = Trial(norm="bn", lr=0.05, seed=0, study=config)
        layer = nn.BatchNorm1d if name.startswith("mlp") else nn.BatchNorm2d

        def ours(bench: Bench = bench, trial: Trial = trial) -> None:
            deque(run(trial, bench, lambda: None), maxlen=0)

        def naive(bench: Bench = bench, trial: Trial = trial, make=make, layer=layer) -> None:
            for momentum in (*tn.rules.SWEEP, None):
                network = make(lambda channels, m=momentum: layer(channels, momentum=m))
                train(network, bench.feed("train", config.batch_size), recipe(trial))
                predict(network, bench.feed("test", EVALUATION_BATCH))

        what = f"{name}: {len(arms)} arms over 17 trainings"
        found = results[what] = ratios(ours, naive, pairs=options.pairs, warm_up=1)
        say(what, found)
    save(results, options, side="process time of one watched training and its arms over 17 plain trainings")


if __name__ == "__main__":
    main()

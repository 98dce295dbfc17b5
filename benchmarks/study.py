"""The default study (digits, mlp, three seeds, every default arm) over the plain training of its nine networks."""

import tempfile
from pathlib import Path

import torch
from pairing import arguments, ratios, save, say

from truenorm.data.images import load
from truenorm.study.arms import NETWORK_ARMS, resolve, sweep
from truenorm.study.configuration import StudyConfig, Trial
from truenorm.study.networks import network_factory
from truenorm.study.study import run_study
from truenorm.study.training import train
from truenorm.study.trial import Bench, recipe


def main() -> None:
    options = arguments(__doc__, pairs=5)
    config = StudyConfig()
    images = load(config.data)
    make = network_factory(config.network, input_shape=(1, 8, 8), num_classes=10, widths=config.widths)
    bench = Bench(images, make, resolve(config.arms, ())[0], sweep(()), torch.device("cpu"))

    def whole() -> None:
        with tempfile.TemporaryDirectory() as out:
            run_study(config, command="benchmark", out=Path(out))

    def plain() -> None:
        for seed in range(config.seeds):
            for norm in ("bn", *NETWORK_ARMS):
                trial = Trial(norm=norm, lr=config.lr[0], seed=seed, study=config)
                train(bench.network(trial), bench.feed("train", config.batch_size), recipe(trial))

    name = "the default study over its plain trainings"
    found = ratios(whole, plain, pairs=options.pairs, warm_up=1)
    say(name, found)
    save({name: found}, options, side="process time of the whole study over nine plain trainings")


if __name__ == "__main__":
    main()

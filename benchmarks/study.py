"""The whole study over the plain training of its networks: what measuring everything adds to training.

The default study (digits, mlp, three seeds, every default arm) over its nine trainings; and for cnn and a thin
ResNet one seed of it over the three trainings.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from pairing import arguments, ratios, save, say

from truenorm.lab.study.arms import NETWORK_ARMS, resolve
from truenorm.lab.study.configuration import StudyConfig, StudyTrial
from truenorm.lab.study.context import open_context, open_images
from truenorm.lab.study.study import run_study
from truenorm.lab.study.training import train
from truenorm.lab.study.trial import recipe

STUDIES = {
    "mlp, 3 seeds": StudyConfig(),
    "cnn, 1 seed": StudyConfig(networks=("cnn",), seeds=1),
    "resnet18-w16, 1 seed, 6 epochs": StudyConfig(networks=("resnet18-w16",), seeds=1, epochs=6, bfn="group:4"),
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0], pairs=5)
    results: dict[str, list[float]] = {}
    for name, config in STUDIES.items():
        (setting,) = config.settings
        images = open_images(config, setting.data, lambda what, done, total: None)
        bench = open_context(config, setting.network, images, resolve(config.arms, ())[0], torch.device("cpu"))

        def whole(config: StudyConfig = config) -> None:
            with tempfile.TemporaryDirectory() as out:
                run_study(replace(config, threads=options.threads), command="benchmark", out=Path(out))

        def plain(config: StudyConfig = config, setting=setting, bench=bench) -> None:
            for seed in range(config.seeds):
                for norm in ("bn", *NETWORK_ARMS):
                    trial = StudyTrial(norm=norm, lr=config.lr[0], seed=seed, setting=setting)
                    train(bench.network(trial), bench.feed("train", setting.batch_size), recipe(trial))

        what = f"the study of {name}, over its plain trainings"
        found = results[what] = ratios(whole, plain, pairs=options.pairs, warm_up=1)
        say(what, found)
    save(results, options, side="process time of the whole study over the plain training of its networks")


if __name__ == "__main__":
    main()

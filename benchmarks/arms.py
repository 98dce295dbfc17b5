"""The whole table of arms from one training, against one training per momentum.

The naive way trains and evaluates a network for each of the 16 momenta and for momentum=None, with torch's
layers, and gets 17 of the arms so; ours trains once, watched, and measures every arm that is not a network
of its own: 27 ways of having statistics, their shift in three flows included.
"""

import math
import tempfile
from collections import deque
from pathlib import Path

import torch
from pairing import arguments, ratios, save, say

import truenorm as tn
from truenorm.lab.images.feed import EVALUATION_BATCH
from truenorm.lab.jobs.store import RunningTrial
from truenorm.lab.study.arms import resolve
from truenorm.lab.study.configuration import StudyConfig, StudyTrial
from truenorm.lab.study.context import StudyContext, open_context, open_images
from truenorm.lab.study.training import predict, train
from truenorm.lab.study.trial import measure_trial, recipe
from truenorm.model.layers import batch_norms

EPOCHS = {"mlp": 20, "cnn": 20, "resnet18-w16": 4}


def main() -> None:
    options = arguments(__doc__.splitlines()[0], pairs=6)
    arms, _ = resolve(("all",), ())
    results: dict[str, list[float]] = {}
    for name, epochs in EPOCHS.items():
        config = StudyConfig(networks=(name,), epochs=epochs, arms=("all",))
        (setting,) = config.settings
        images = open_images(config, setting.data, lambda what, done, total: None)
        bench = open_context(config, name, images, arms, torch.device("cpu"))
        trial = StudyTrial(norm="bn", lr=0.05, seed=0, setting=setting)

        def ours(bench: StudyContext = bench, trial: StudyTrial = trial) -> None:
            with tempfile.TemporaryDirectory() as folder:
                deque(
                    measure_trial(trial, bench, RunningTrial(Path(folder) / "trial.pt", math.inf), lambda: None),
                    maxlen=0,
                )

        def naive(bench: StudyContext = bench, trial: StudyTrial = trial) -> None:
            for momentum in (*tn.rules.SWEEP, None):
                network = bench.network(trial)
                for layer in batch_norms(network).values():
                    layer.momentum = momentum  # pyright: ignore  # torch's own layers
                train(network, bench.feed("train", trial.setting.batch_size), recipe(trial))
                predict(network, bench.feed("test", EVALUATION_BATCH))

        what = f"{name}: {len(arms)} arms over 17 trainings"
        found = results[what] = ratios(ours, naive, pairs=options.pairs, warm_up=1)
        say(what, found)
    save(results, options, side="process time of one watched training and its arms over 17 plain trainings")


if __name__ == "__main__":
    main()

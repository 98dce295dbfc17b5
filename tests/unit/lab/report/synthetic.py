"""Records of studies that were never run: as large as wanted, in the shape that `truenorm study` gives them."""

import itertools
import random

from truenorm.record import ClassCounts, Measurement, Record

MOMENTA = (0.001, 0.0025, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.15, 0.22, 0.33, 0.5, 0.7, 0.8, 0.9)
ARMS = ("dmbn", "dmbn-pooled", "pooled-0.1", "last-epoch", "adaptive", "update_bn", "recalibrated", "sequential")


def study(
    *,
    batch_sizes=(32,),
    networks=("mlp",),
    data=("digits",),
    schedules=("cosine",),
    lrs=(),
    num_layers=3,
    seeds=3,
    arms=("static-0.1", *ARMS, "bn-bfn", "gn"),
    gains=None,
    epochs=0,
    layer="norm{}",
    diverged=(),
    rates=None,
    classes=(),
    shifts=None,
):
    """A study whose figures are drawn at random, those of a setting about a level of its own.

    `gains`: arm → how much better than the baseline it is. `diverged`: batch sizes without a result.
    `rates`: norm → the learning rate that was chosen for it among several. `classes`: their names; each has 30 test
    images. `shifts`: arm → class → how many more of its images are right.
    """
    draw = random.Random(0)
    layers = [layer.format(index + 1) for index in range(num_layers)]
    rows, matrices, trials = [], [], {}
    for cell in itertools.product(data, networks, batch_sizes, schedules, lrs or (0.05,)):
        level = draw.uniform(0.8, 0.95)
        for norm, seed in itertools.product(("bn", *(arm for arm in arms if arm in ("bn-bfn", "gn"))), range(seeds)):
            trial = "-".join(map(str, (*cell, norm, seed)))
            axes = dict(zip(("data", "network", "batch_size", "schedule", "lr"), cell, strict=True))
            trials[trial] = {"norm": norm, "seed": seed, **axes, "epochs": 10}
            if rates:
                trials[trial]["lr"] = rates[norm]
            if cell[2] in diverged:
                trials[trial]["diverged"] = "the loss became nan in epoch 2"
                continue
            rows += _trial(draw, trial, norm, level, layers, arms, gains or {}, epochs)
            if classes:
                matrices += _matrices(trial, norm, arms, len(classes), shifts or {})
    configuration = {
        "data": list(data),
        "networks": list(networks),
        "batch_sizes": list(batch_sizes),
        "schedules": list(schedules),
        "lr": [0.02, 0.06, 0.18] if rates else [0.05],
        "lrs": list(lrs),
        "seeds": seeds,
        "arms": list(arms),
        "momenta": list(MOMENTA),
        "reference": "training",
        "images": {
            name: {"train": 1199, "validation": 239, "test": 359, "classes": 10, "image_shape": [1, 8, 8]}
            | {"imbalance": 1.0, "balanced": False}
            | ({"classes": len(classes), "class_names": list(classes)} if classes else {})
            for name in data
        },
    }
    return Record(
        command="truenorm study --out results/study",
        rows=tuple(rows),
        class_counts=tuple(matrices),
        trials=trials,
        configuration=configuration,
        versions={"python": "3.11", "torch": "2.13.0"},
        machine={"system": "Linux", "cores": 2},
    )


def _matrices(trial, norm, arms, num, shifts):
    """Of each class 24 of 30 images are right, give or take one; the others are taken for the next two classes."""
    own = [arm for arm in arms if (arm if arm in ("bn-bfn", "gn") else "bn") == norm]
    for arm in own:
        draw, counts = random.Random(f"{trial} {arm}"), [[0] * num for _ in range(num)]
        for true in range(num):
            right = 24 + draw.choice((-1, 0, 0, 1)) + shifts.get(arm, {}).get(true, 0)
            counts[true][true] += right
            counts[true][(true + 1) % num] += (30 - right) // 2
            counts[true][(true + 2) % num] += 30 - right - (30 - right) // 2
        yield ClassCounts(trial, arm, tuple(map(tuple, counts)))


def _trial(draw, trial, norm, level, layers, arms, gains, epochs):
    own = [arm for arm in arms if (arm if arm in ("bn-bfn", "gn") else "bn") == norm]
    base = level + draw.gauss(0, 0.003)
    for arm in own:
        accuracy = base + gains.get(arm, 0) + draw.gauss(0, 0.002)
        for metric in ("accuracy", "sensitivity", "specificity", "f_score"):
            yield Measurement(trial, arm, None, metric, accuracy, None, 359)
        yield Measurement(trial, arm, None, "nll", 2 * (1 - accuracy), None, 359)
        if norm == "gn":
            continue
        for depth, layer in enumerate(layers, 1):
            for reference in ("joint", "sequential", "arriving"):
                shift = 0.02 * depth * draw.uniform(0.5, 1.5)
                yield Measurement(trial, arm, layer, f"shift.{reference}", shift, 0.005, 100)
            if arm in ("dmbn", "dmbn-pooled", "adaptive"):
                yield Measurement(trial, arm, layer, "momentum", draw.choice(MOMENTA[3:6]))
        for epoch in range(1, epochs + 1):
            yield Measurement(trial, arm, None, f"shift.joint@{epoch}", 0.1 / epoch)
    for epoch in range(1, epochs + 1):
        yield Measurement(trial, norm, None, f"training_loss@{epoch}", 2 / epoch)
    if norm == "bn":
        # Members of the sweep that no table shows.
        for momentum, layer in itertools.product(MOMENTA, layers):
            if f"static-{momentum:g}" not in own:
                shift = 0.02 * (1 + abs(momentum - 0.02) * 5) * draw.uniform(0.8, 1.2)
                yield Measurement(trial, f"static-{momentum:g}", layer, "shift.joint", shift, 0.005, 100)

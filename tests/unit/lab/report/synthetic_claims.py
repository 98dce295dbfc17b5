"""Claims that nobody makes, and records of them that were never run: what was found of each is planted."""

import math
import random

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture
from truenorm.record import Measurement, Record

RATES = (0.01, 0.1, 1.0, 10.0)
BATCHES = (16, 256)


def claim(number, name, parts, picture, *, title=None, arms=None, columns=None, run=None, cells=None, **words):
    words = {
        "title": title or f"Batch norm does thing {number}",
        "sentence": "Batch normalization does it, and does it always.",
        "sources": ("somebody 2015", "four tutorials"),
        "literature": "Supported by some; others found the opposite.",
        "literature_verdict": "depends",
        "plainly": "A network does something; this is said to make it do it better.",
        "hypothesis": "It is done twice as well.",
        "control": "The same network without.",
        "measure": "How well it is done.",
        "primary": parts[0].name,
        "why_primary": "The words name this one.",
    } | words
    return Claim(
        number=number,
        name=name,
        arms=arms or {"none": "no norm", "bn": "batch norm", "ghost-32": "batch norm, 32 at a time"},
        parts=parts,
        columns=columns or (Column(metric="accuracy", heading="accuracy %", unit="points", digits=2),),
        picture=picture,
        cells=cells or (lambda context: [Cell(arm="bn")]),
        run=run or (lambda trial, context, on_step: iter(())),
        **words,
    )


def over_none(metric, **where):
    return lambda evidence: evidence.difference(metric, "bn", "none", **where)


ALONG = claim(
    2,
    "along",
    tuple(
        Part(
            name=f"batch {batch_size}",
            says=f"accuracy, batch norm over none, batch {batch_size}",
            effect=over_none("accuracy", batch_size=batch_size, rate=1.0),
            margin=0.02,
            unit="points",
        )
        for batch_size in BATCHES
    ),
    Picture(
        metric="accuracy",
        y="accuracy, %",
        text="Higher is better.",
        unit="points",
        x="rate",
        x_title="learning rate",
        log_x=True,
        panels="batch_size",
    ),
)
BELOW = claim(
    5,
    "below",
    (
        Part(
            name="steps",
            says="steps, none over batch norm",
            effect=lambda evidence: evidence.difference("steps", "none", "bn"),
            margin=math.log(1.25),
            unit="factor",
        ),
        Part(name="loss", says="loss, none less batch norm", effect=over_none("loss"), margin=0.25, unit="plain"),
    ),
    Picture(metric="loss", y="loss", text="Lower is better."),
    columns=(Column(metric="steps", heading="steps", unit="factor"), Column(metric="loss", heading="loss")),
)
ALONE = claim(
    7,
    "alone",
    (Part(name="everywhere", says="accuracy", effect=over_none("accuracy"), margin=0.01, unit="points"),),
    Picture(metric="accuracy", y="accuracy, %", text="Higher is better.", unit="points", x="data", x_title="data"),
)
CATALOGUE = (ALONG, BELOW, ALONE)


def record(*, gains=None, seeds=5, noise=0.001, far=(), diverged=(), complete=True, claims=CATALOGUE, notes=()):
    """Numbers of every claim: at 0.8, and where batch norm has a gain, higher by so much.

    `gains`: name of the claim, or (name, batch size) → gain of bn. `far`: arms whose loss is 1e26.
    `diverged`: (arm, seed) of trials of `along` that gave no numbers.
    """
    draw = random.Random(0)
    gains, rows, trials = gains or {}, [], {}

    def trial(name, arm, seed, values, lr=None, **where):
        key = f"{name}-{arm}-{seed}-{len(trials)}"
        trials[key] = {"claim": name, "arm": arm, "seed": seed, "where": where, "lr": lr}
        if (arm, seed) in diverged and name == "along":
            trials[key]["diverged"] = "the loss became nan"
        else:
            rows.extend(Measurement(key, arm, None, metric, value, None, 359) for metric, value in values.items())

    for seed in range(seeds):
        for one in claims:
            for arm in one.arms:
                for where in _places(one):
                    gain = gains.get((one.name, where.get("batch_size")), gains.get(one.name, 0.0)) * (arm == "bn")
                    noisy = draw.gauss(0, noise)
                    values = {"accuracy": min(1.0, 0.8 + gain + noisy), "steps": 5.0 - gain + noisy}
                    values["loss"] = 1e26 if arm in far else 1.0 + gain + noisy
                    trial(one.name, arm, seed, values, 0.25 if one.name == "below" else where.get("rate"), **where)
    return Record(
        command="truenorm claims --out results/claims",
        rows=tuple(rows),
        trials=trials,
        configuration={
            "data": "digits",
            "data_root": None,
            "limit": 100,
            "test_limit": None,
            "seeds": seeds,
            "quick": False,
            "claims": [one.name for one in claims],
            "family": sum(len(one.parts) for one in CATALOGUE),
            "images": {"name": "digits", "train": 1199, "validation": 239, "test": 359, "classes": 10},
        },
        versions={"python": "3.11", "truenorm": "0.1.0"},
        machine={"system": "Linux", "cores": 2},
        notes=notes,
        complete=complete,
    )


def _places(one):
    if one.picture.panels:
        return [{"batch_size": batch_size, "rate": rate} for batch_size in BATCHES for rate in RATES]
    return [{}] if one.picture.x is None else [{"data": "drawings"}, {"data": "photographs"}]

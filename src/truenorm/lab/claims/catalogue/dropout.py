"""Dropout beside batch norm."""

import math
from collections.abc import Mapping

from torch import nn

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import interaction
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.training import few_images, scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import BatchNorm, NormLayer
from truenorm.lab.study.arms import sequential
from truenorm.model.statistics import statistics, using
from truenorm.stats.shift import estimation_shift

TRAINED_ON, BATCH = 512, 64
"""Images: so few that a network can learn them by heart, and dropout has something to prevent."""

IMAGES = 20_000
"""Shown in each training."""

SHARE = 0.3
"""Of the values that dropout sets to 0."""


def _dropout(channels: int) -> nn.Module:
    return nn.Dropout(SHARE)


def _behind(*layers: NormLayer) -> NormLayer:
    return lambda channels: nn.Sequential(*(layer(channels) for layer in layers))


MAKERS: Mapping[str, NormLayer] = {
    "none": NORMS["none"],
    "none-dropout": _behind(NORMS["none"], _dropout),
    "bn": BatchNorm,
    # Dropout before a ReLU is the same as behind it: it multiplies by 0 or by a positive number.
    "bn-dropout": _behind(BatchNorm, _dropout),
    "dropout-bn": _behind(_dropout, BatchNorm),
}


def cells(context: ClaimsContext) -> list[Cell]:
    feed = few_images(context, TRAINED_ON, BATCH)
    return grid(MAKERS, lrs=context.rates(-9, -1), steps=_epochs(context) * len(feed))


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: dense(context, MAKERS[trial.arm]), trial.seed)
    feed = few_images(context, TRAINED_ON, BATCH)
    trained(network, feed, trial, on_step, epochs=_epochs(context))
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    tested = scored(network, context, "test")
    yield trial.row("accuracy", tested.accuracy, n=tested.num)
    yield trial.row("nll", math.log(tested.nll), n=tested.num)
    if "bn" in trial.arm:
        exact = sequential(network, feed)
        yield trial.row("shift", estimation_shift(statistics(network), exact).mean)
        with using(network, exact):
            yield trial.row("accuracy.exact", scored(network, context, "test").accuracy, n=tested.num)


def _epochs(context: ClaimsContext) -> int:
    return max(1, IMAGES // (3 if context.quick else 1) // TRAINED_ON)


CLAIM = Claim(
    number=4,
    name="dropout",
    title="Batch norm makes dropout less necessary",
    sentence="""Batch normalization has a regularising effect, so that a network depends less on dropout, or needs none
        at all.""",
    sources=("Ioffe & Szegedy 2015", "two of four tutorials"),
    literature="""Ioffe & Szegedy 2015: in some cases batch norm eliminates the need for dropout. Li et al. 2019: used
        together they often do worse than one alone; dropout before batch norm changes the variance between training
        and inference, so that the stored one does not fit.""",
    literature_verdict="in some cases",
    plainly="""Dropout sets random numbers inside a network to 0 while it trains, so that it cannot lean on any of them
        and does not learn its training images by heart. If batch norm does the same job, dropout has less to do where
        batch norm is there.""",
    hypothesis="""Dropout makes a network without norm more accurate by at least half a point more than it does a
        network with batch norm, and lowers its test loss by a tenth more.""",
    control=f"""All four: without norm and with batch norm, without dropout and with {SHARE:.0%} dropout in every hidden
        layer; the same initial weights, each at its own best rate. Dropout stands behind batch norm, and, in an arm of
        its own, before it.""",
    measure=f"""An MLP with four hidden layers of 128, trained on {TRAINED_ON} images only, cosine rate; accuracy and
        loss on test images in evaluation mode. What dropout gains without norm, less what it gains with batch norm.
        Beside it, not judged: how far the stored statistics are from those that inference sees (in standard deviations
        of a feature), and the accuracy with the latter.""",
    arms={
        "none": "no norm, only biases",
        "none-dropout": f"no norm, {SHARE:.0%} dropout",
        "bn": "batch norm",
        "bn-dropout": f"batch norm, then {SHARE:.0%} dropout",
        "dropout-bn": f"{SHARE:.0%} dropout, then batch norm",
    },
    parts=(
        accuracy_part(
            name="accuracy",
            says="what dropout gains in accuracy, without norm − with batch norm before it",
            effect=interaction("accuracy", ("none-dropout", "none"), ("bn-dropout", "bn")),
            margin=0.005,
        ),
        Part(
            name="loss",
            says="by what factor dropout lowers the test loss, without norm ÷ with batch norm before it",
            effect=interaction("nll", ("none", "none-dropout"), ("bn", "bn-dropout")),
            margin=math.log(1.1),
            unit="factor",
        ),
        accuracy_part(
            name="accuracy, dropout before batch norm",
            says="what dropout gains in accuracy, without norm − with batch norm behind it",
            effect=interaction("accuracy", ("none-dropout", "none"), ("dropout-bn", "bn")),
            margin=0.005,
        ),
    ),
    primary="accuracy",
    why_primary="""To depend on dropout is to be better with it. Accuracy is the ordinary figure of a classifier, and
        behind batch norm is where dropout is usually put.""",
    columns=(
        ACCURACY,
        Column(metric="nll", heading="test NLL", unit="factor"),
        Column(metric="shift", heading="error of the stored statistics, σ", digits=2),
        Column(metric="accuracy.exact", heading="accuracy with exact ones %", unit="points", digits=2),
    ),
    picture=accuracy_picture(
        text="""The distance between the first two is what dropout gains without norm; that from the third to the fourth
            and fifth what it gains with batch norm."""
    ),
    cells=cells,
    run=run,
)

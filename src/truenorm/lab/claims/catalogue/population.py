"""How many images population statistics take."""

from statistics import fmean

import torch
from torch import nn

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH
from truenorm.lab.jobs.job import OnStep
from truenorm.metrics.classification import Scores
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.stats.shift import estimation_shift
from truenorm.stats.statistics import Statistics

IMAGES = 6_000
"""Shown in training."""

BATCH = 64
SIZES = (16, 64, 256, 1024)
JUDGED = (64, 256)

DRAWS = 4
"""How often images are drawn anew for each size; their mean is reported."""


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(["all"], lrs=(2.0**-4,), steps=context.steps(IMAGES, BATCH), network=NETWORKS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: NETWORKS[trial.where["network"]](context, NORMS["bn"]), trial.seed)
    trained(network, context.feed("train", BATCH), trial, on_step, epochs=context.epochs(IMAGES))
    network.eval()
    images = len(context.images.train)
    population = of_images(network, context, torch.arange(images))
    draw = torch.Generator().manual_seed(trial.seed)
    drawn: dict[str, list[Statistics]] = {
        _arm(size): [of_images(network, context, torch.randperm(images, generator=draw)[:size]) for _ in range(DRAWS)]
        for size in SIZES
        if size < images
    }
    for arm, draws in {**drawn, "all": [population], "stored": [statistics(network)]}.items():
        tested = [_scored_with(network, stats, context) for stats in draws]
        yield trial.row("accuracy", fmean(scores.accuracy for scores in tested), arm, n=tested[0].num)
        yield trial.row("nll", fmean(scores.nll for scores in tested), arm, n=tested[0].num)
        yield trial.row("shift", fmean(estimation_shift(stats, population).mean for stats in draws), arm)


def of_images(network: nn.Module, context: ClaimsContext, rows: torch.Tensor) -> Statistics:
    """Statistics of these training images, as inference sees them."""
    pixels = context.images.train.images[rows]
    return measure(network, [context.scale(part) for part in pixels.split(EVALUATION_BATCH)], flow="sequential")


def _scored_with(network: nn.Module, stats: Statistics, context: ClaimsContext) -> Scores:
    with using(network, stats):
        return scored(network, context, "test")


def _arm(size: int) -> str:
    return f"images-{size}"


CLAIM = Claim(
    number=20,
    name="population",
    title="Population statistics need the whole training set",
    sentence="""The mean and variance that inference uses have to be computed over the whole training set, which takes a
        pass over all of it, or running estimates in its place.""",
    sources=("one of four tutorials",),
    literature="""Right that they must be those of the training images, but a sample does: Wu & Johnson 2021 find 10³ to
        10⁴ images enough for networks trained on ImageNet's 1.3 million. The error of a mean of n values falls as
        1/√n.""",
    literature_verdict="no: a sample does",
    plainly="""To know the average height of a country's people nobody measures all of them: some hundreds, drawn at
        random, tell it well. So it may be with the averages that batch norm needs at inference. The question is how
        many images it takes until more of them change nothing.""",
    hypothesis=f"""With statistics of a few random training images the network is less accurate than with those of all,
        by half a point at least: with {JUDGED[0]} images, and with {JUDGED[1]}.""",
    control="The same network, the same weights, the same test images, statistics of all training images.",
    measure=f"""Networks trained in batches of {BATCH}. Then statistics of n random training images, measured layer by
        layer as inference sees them, mean of {DRAWS} draws. Their error is the estimation shift from those of all
        images, in standard deviations of a feature, mean over layers.""",
    arms={
        **{_arm(size): f"statistics of {size} random training images" for size in SIZES},
        "all": "statistics of all training images",
        "stored": "running averages, as training left them",
    },
    parts=tuple(
        accuracy_part(
            name=f"{size} images ({network})",
            says=f"accuracy, statistics of all images − of {size}, {network}",
            effect=difference("accuracy", "all", _arm(size), network=network),
            margin=0.005,
        )
        for size in JUDGED
        for network in NETWORKS
    ),
    primary="256 images (cnn)",
    why_primary="""That the whole training set is needed is to be shown against a large part of it, not a small one; a
        CNN is the ordinary network for images.""",
    columns=(
        ACCURACY,
        Column(metric="nll", heading="NLL"),
        Column(metric="shift", heading="error of the statistics, σ", digits=2),
    ),
    picture=accuracy_picture(
        panels="network",
        text="""From top to bottom the statistics come from more and more images. Where the marks no longer move, more
            images are of no use. Four times as many at least halve the error of the statistics.""",
    ),
    cells=cells,
    run=run,
)

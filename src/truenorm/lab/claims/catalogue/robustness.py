"""Accuracy, and robustness to images of another kind."""

import torch

from truenorm.lab.claims.accuracy import accuracy_part, accuracy_picture
from truenorm.lab.claims.catalogue.other_data import BATCH, IMAGES, PLACES, TESTED, UNCHANGED, Networks, adapted, shown
from truenorm.lab.claims.claim import Cell, Claim, Column, Rows
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.corruption import BLUR, CONTRAST, CORRUPTIONS, NOISE
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import ARMS
from truenorm.lab.claims.training import scored
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.study.training import predict
from truenorm.metrics.classification import scores

ADAPTED, SIZE = "bn-adapted", 128
"""The arm whose statistics are taken anew, and how many images they are taken from."""

COMPARED = ("none", "bn", ADAPTED, "gn")


def cells(context: ClaimsContext) -> list[Cell]:
    whole = context.steps(IMAGES, BATCH)
    return [
        # A network that was trained for one place is used again for the others.
        Cell(
            arm=arm,
            where={"images": place},
            lrs=context.rates(-7, 0),
            steps=whole if arm != ADAPTED and place == UNCHANGED else 1,
        )
        for arm in COMPARED
        for place in PLACES
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = _NETWORKS.trained(trial, context, on_step)
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    draw = torch.Generator().manual_seed(trial.seed)
    test = shown(context.images.test, trial.where["images"], draw, most=TESTED)
    if trial.arm == ADAPTED:
        pool = shown(context.images.validation, trial.where["images"], draw)
        tested = adapted(network, context, pool, test, SIZE)
    else:
        tested = scores(predict(network, Feed(test, context.scale, EVALUATION_BATCH)), test.labels)
    yield from trial.scores(tested, "accuracy", "nll")


_NETWORKS = Networks()


CLAIM = Claim(
    number=21,
    name="robustness",
    title="Batch norm makes networks more accurate and robust",
    sentence="With batch normalization a network is more accurate, and more robust.",
    sources=("one of four tutorials",),
    literature="""Accuracy: under the conditions of claims 1 to 3. Robustness to images of another kind depends on whose
        statistics are used at inference: with those of such images it is much better than with those of training
        (Schneider 2020, Nado 2020).""",
    literature_verdict="depends: the statistics at inference",
    plainly="""A network is robust if it still knows what it sees when pictures are duller, noisier or blurred, though
        it has learned from good ones. Batch norm keeps numbers from its training, which may not fit such pictures. The
        question is whether a network with it gets more of them right than one without, and more of the good ones.""",
    hypothesis="""With batch norm a network is at least half a point more accurate on unchanged images than without
        norm, and at least a point on each kind of corrupted images: as it is used, and with statistics of such
        images.""",
    control=f"""The same network with the same initial weights without norm; beside it, not judged, with group norm.
        Each at the rate that is best for it on unchanged images. And batch norm with statistics of {SIZE} images of the
        kind that it is asked about, without labels.""",
    measure=f"""A CNN trained on the images as they are. Then accuracy on test images as they are, with contrast times
        {CONTRAST:g}, with noise of {NOISE:.0%} of the range of a pixel, and blurred by {BLUR:.0%} of their height; as
        for claim 14, whose question is what wrong statistics cost. Here it is whether one is better off with batch norm
        or without.""",
    arms={
        "none": ARMS["none"],
        "bn": "batch norm as it is used: the statistics of training",
        ADAPTED: f"batch norm, statistics of {SIZE} other images of the kind it is asked about",
        "gn": ARMS["gn"],
    },
    parts=(
        accuracy_part(
            name="unchanged images",
            says="accuracy, batch norm − none, unchanged images",
            effect=difference("accuracy", "bn", "none", images=UNCHANGED),
            margin=0.005,
        ),
        *(
            accuracy_part(
                name=f"{place} images{how}",
                says=f"accuracy, batch norm{how} − none, {place} images",
                effect=difference("accuracy", arm, "none", images=place),
                margin=0.01,
            )
            for arm, how in (("bn", ""), (ADAPTED, ", adapted"))
            for place in CORRUPTIONS
        ),
    ),
    primary="unchanged images",
    why_primary="""The sentence speaks of accuracy first, and without a condition; it does not say what a network is
        robust to.""",
    columns=(
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=1),
        Column(metric="nll", heading="NLL"),
    ),
    picture=accuracy_picture(
        panels="images",
        text="""Each panel is one kind of images; all networks have learned from unchanged ones. Further right is
            better.""",
    ),
    cells=cells,
    run=run,
)

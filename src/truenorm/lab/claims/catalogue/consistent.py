"""Inference by running averages, and the batch."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from truenorm.lab.claims.catalogue.per_sample import alone
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import value
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.training import first, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.metrics.classification import scores
from truenorm.model.measure import measure
from truenorm.model.statistics import using

IMAGES = 3_500
"""Shown in training, whatever the batch."""

SUBSET = 2_000
"""Training images, at most: small batches take long."""

SMALL, LARGE = 4, 64
BATCHES = (SMALL, 16, LARGE)

WATCHED = 16
"""Test images whose output is looked at while the others in their batch are exchanged."""

ARMS = {
    "batch": "each batch by its own statistics, as in training",
    "stored": "running averages, as batch norm is used",
    "exact": "statistics of all training images, as inference sees them",
}


def cells(context: ClaimsContext) -> list[Cell]:
    few = limited(context)
    return [
        Cell(arm="stored", where={"batch_size": size}, lrs=(2.0**-6,), steps=few.steps(IMAGES, size))
        for size in BATCHES
        if 2 * (size - 1) <= len(few.images.train)
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    context, size = limited(context), trial.where["batch_size"]
    network = initialised(lambda: dense(context, NORMS["bn"]), trial.seed)
    trained(network, context.feed("train", size), trial, on_step, epochs=context.epochs(IMAGES))
    network.double().eval()  # in float32 rounding would depend on the batch, too
    train = context.scale(context.images.train.images).double()
    exact = measure(network, [train], flow="sequential")
    test = replace(context.feed("test", size), drop_single=True)
    with using(network, exact):
        right = outputs(network, test)
    draw = torch.Generator().manual_seed(trial.seed)
    others = train[torch.randperm(len(train), generator=draw)[: 2 * (size - 1)]].chunk(2)
    watched = context.scale(context.images.test.images[:WATCHED]).double()
    for arm in ARMS:
        with using(network, exact if arm == "exact" else None), torch.no_grad():
            network.train(arm == "batch")
            given = outputs(network, test)
            yield trial.row("alone", alone(network, watched, *others), arm, n=len(watched))
        yield trial.row("same", same(given, right), arm, n=len(given))
        yield trial.row("accuracy", scores(given, test.split.labels[: len(given)]).accuracy, arm, n=len(given))


def limited(context: ClaimsContext) -> ClaimsContext:
    """With the first training images only."""
    train = first(context.feed("train", 1), SUBSET).split
    return replace(context, images=replace(context.images, train=train))


def outputs(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """What the network gives, in the mode in which it is, batch by batch."""
    with torch.no_grad():
        return torch.cat([network(images.double()) for images, _ in batches])


def same(given: Tensor, right: Tensor) -> float:
    r"""How much of the output is as it should be.

    $$ 1 - \frac{\mathrm{rms}(y - y')}{\mathrm{rms}(y')} $$

    Example:
        >>> round(same(torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 4.0]])), 3)
        0.8
    """
    return 1 - ((given - right).norm() / right.norm()).item()


CLAIM = Claim(
    number=13,
    name="consistent",
    title="Running averages make inference independent of the batch",
    sentence="""At inference batch norm uses running averages from training, so that what it gives is consistent and
        does not depend on the batch.""",
    sources=("Ioffe & Szegedy 2015", "two of four tutorials"),
    literature="""True of the batch at inference, by definition. But the averages were gathered batch by batch, and
        those of small batches are not those of the data (Singh & Shrivastava 2019; Wu & Johnson 2021); through a stack
        of layers the error grows (Huang et al. 2022). torch stores the variance times n/(n−1), which is right for
        independent values; behind another batch norm they are not, and it is too large, by up to a third in batches of
        4.""",
    literature_verdict="yes for the test batch, no for the training batch",
    plainly="""In training what comes out for an image depends on the images that are with it in the batch. At inference
        that would be odd: the answer to your picture would depend on other people's. Running averages take the place of
        the batch's numbers. But they are made of the training batches, and may keep a trace of their size.""",
    hypothesis="""At inference an image's output does not change when all other images of its batch are exchanged. And
        it is what statistics of all training images would give, whatever the batch size in training. Both shares are 1,
        or nearly.""",
    control="""The same weights with each batch's own statistics, and with those of all training images, measured layer
        by layer after training: only the statistics differ.""",
    measure=f"""An MLP, trained on as many images in batches of {", ".join(map(str, BATCHES[:-1]))} or {LARGE}, at most
        {SUBSET} of them different; cosine rate, the same for all. First: for {WATCHED} test images, 1 less the relative
        change of the network's output when all others in the batch are exchanged. Second: 1 less its relative distance
        from the output with statistics of all training images. Less than 95 % is not what the claim says, as for claim
        16.""",
    arms=ARMS,
    parts=(
        Part(
            name="the batch at inference",
            says=f"share of an image's output that does not depend on the others, batch {SMALL}",
            effect=value("alone", "stored", batch_size=SMALL),
            margin=0.95,
            unit="points",
        ),
        *(
            Part(
                name=f"training batches of {size}",
                says=f"share of the output that statistics of all images would give, training batch {size}",
                effect=value("same", "stored", batch_size=size),
                margin=0.95,
                unit="points",
            )
            for size in (SMALL, LARGE)
        ),
    ),
    primary="the batch at inference",
    why_primary="The sentence speaks of what is given at inference, and of the batch there.",
    columns=(
        Column(metric="alone", heading="independent of the others %", unit="points", digits=1),
        Column(metric="same", heading="as with all images %", unit="points", digits=1),
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=1),
    ),
    picture=Picture(
        metric="same",
        y="output as with all images, %",
        unit="points",
        x="batch_size",
        x_title="images per batch in training",
        log_x=True,
        text="""At 100 % the network answers as if it knew the statistics of all training images. Below, a part of the
            answer comes from how the statistics were gathered: the smaller the training batches, the more.""",
    ),
    cells=cells,
    run=run,
)

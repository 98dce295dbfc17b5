"""Deeper networks."""

from collections.abc import Mapping
from functools import partial

from torch import nn

from truenorm.errors import Diverged
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import ARMS, NORMS, dense, initialised
from truenorm.lab.claims.residual import SkipInit, residual
from truenorm.lab.claims.training import scored, scored_in_batches, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep

IMAGES = 7_200
"""Shown in each training: 6 epochs of digits."""

BATCH = 64
DEPTHS = (5, 10, 20, 40)
WIDTH = 64

PLAIN, SKIPS = "plain", "with skips"
COMPARED: Mapping[str, tuple[str, ...]] = {PLAIN: ("none", "bn"), SKIPS: ("none", "bn", "skipinit")}
"""Kind of network → its arms."""


def cells(context: ClaimsContext) -> list[Cell]:
    lrs, steps = context.rates(-9, 0), context.steps(IMAGES, BATCH)
    depths = DEPTHS[1::2] if context.quick else DEPTHS
    return [
        cell
        for network, arms in COMPARED.items()
        for cell in grid(arms, lrs=lrs, steps=steps, network=[network], depth=depths)
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(partial(made, context, trial), trial.seed)
    feed = context.feed("train", BATCH)
    metrics = ("validation_accuracy",) if trial.tuning else ("training_accuracy", "accuracy")
    try:
        trained(network, feed, trial, on_step, epochs=context.epochs(IMAGES))
        if trial.tuning:
            scores = (scored_in_batches(network, context.feed("validation", BATCH)),)
        else:
            scores = (scored_in_batches(network, feed), scored(network, context, "test"))
    except Diverged:  # a network that fell apart can but guess
        for metric in metrics:
            yield trial.row(metric, 1 / context.num_classes)
        return
    for metric, of_part in zip(metrics, scores, strict=True):
        yield trial.row(metric, of_part.accuracy, n=of_part.num)


def made(context: ClaimsContext, trial: ClaimTrial) -> nn.Module:
    """The trial's network, before its weights are drawn."""
    depth: int = trial.where["depth"]
    if trial.where["network"] == PLAIN:
        return dense(context, NORMS[trial.arm], depth=depth, width=WIDTH)
    if trial.arm == "skipinit":
        return residual(context, NORMS["none"], depth=depth, width=WIDTH, end=SkipInit)
    return residual(context, NORMS[trial.arm], depth=depth, width=WIDTH)


CLAIM = Claim(
    number=8,
    name="deeper",
    title="Batch norm makes deeper networks trainable",
    sentence="With batch normalization much deeper networks can be trained.",
    sources=("two of four tutorials",),
    literature="""De & Smith 2020: with skip connections yes, because batch norm makes each branch small against its
        skip, by about √depth; one number per branch that begins at 0 (SkipInit) does as well. Without skips deep
        networks do not train well even with it: their gradients explode (Yang et al. 2019) and shatter (Balduzzi et al.
        2017).""",
    literature_verdict="depends: skips",
    plainly="""More layers let a network compute more, but also give its signal more chances to fade or to blow up on
        the way. Skip connections let the signal pass each layer by; each layer then only adds to it.""",
    hypothesis=f"""With {DEPTHS[-1]} hidden layers a network learns its training images better with batch norm, by 5
        points at least: without skips, with skips, and with skips against networks that are told at the start to lean
        on them (SkipInit).""",
    control="""The same network with the same weights without norm (He's initial weights, which are right for plain
        networks; with skips they double the signal's variance in each layer, and that is what goes wrong there); with
        skips also SkipInit, which has no norm. Each at its own best rate at each depth.""",
    measure=f"""Accuracy on the training images after {IMAGES:,} images in batches of {BATCH}, {WIDTH} units a layer,
        SGD with momentum 0.9, cosine schedule. Batch norm uses each batch's own statistics, as in training: whether its
        running averages are good after so few steps is another claim's question. What diverges counts as guessing.""",
    arms={
        "none": ARMS["none"],
        "bn": ARMS["bn"],
        "skipinit": "no norm, each branch times a learned number, at first 0",
    },
    parts=tuple(
        Part(
            name=name,
            says=f"training accuracy, batch norm − {than}, {DEPTHS[-1]} layers, {network}",
            effect=difference("training_accuracy", "bn", other, network=network, depth=DEPTHS[-1]),
            margin=0.05,
            unit="points",
        )
        for name, than, other, network in (
            ("plain networks", "none", "none", PLAIN),
            ("networks with skips", "none", "none", SKIPS),
            ("skips against SkipInit", "SkipInit", "skipinit", SKIPS),
        )
    ),
    primary="plain networks",
    why_primary="The sentence speaks of deeper networks, and of no skip connections.",
    columns=(
        Column(metric="training_accuracy", heading="training accuracy %", unit="points", digits=2),
        Column(metric="accuracy", heading="test accuracy %", unit="points", digits=2),
    ),
    picture=Picture(
        metric="training_accuracy",
        y="accuracy on training images, %",
        unit="points",
        x="depth",
        x_title="hidden layers",
        panels="network",
        log_x=True,
        text="A curve that falls to the right is a network that gets harder to train the deeper it is.",
    ),
    cells=cells,
    run=run,
)

"""What γ and β are for."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference, log_ratio
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Feed
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.hooks import hooked
from truenorm.lab.networks.norms import BatchNorm, NormLayer

IMAGES = 48_000
"""Shown in each training: 40 epochs of digits."""

BATCH = 64
LINEAR = 1.0
"""The inputs nearer to 0 than this are the sigmoid's linear region: there it is a straight line to within 0.02."""

AFFINE: Mapping[str, NormLayer] = {
    "none": NORMS["none"],
    "bn": BatchNorm,
    "bn-no-affine": partial(BatchNorm, affine=False),
}


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(AFFINE, lrs=context.rates(-7, 1), steps=context.steps(IMAGES, BATCH))


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: dense(context, AFFINE[trial.arm], activation=nn.Sigmoid), trial.seed, gain=1.0)
    feed = context.feed("train", BATCH)
    losses = trained(network, feed, trial, on_step, epochs=context.epochs(IMAGES))
    if trial.tuning:
        yield trial.row("validation_nll", -scored(network, context, "validation").nll)
        return
    inputs = torch.cat(sigmoid_inputs(network, feed), dim=1)
    yield trial.row("linear_share", share_within(inputs, LINEAR))
    spread = inputs.std(0)
    yield trial.row("spread", spread.mean().item())
    yield trial.row("spread_between", spread.std().item())
    yield trial.row("training_loss", losses[-1])
    yield from trial.scores(scored(network, context, "test"), "nll", "accuracy")


def sigmoid_inputs(network: nn.Module, feed: Feed) -> list[Tensor]:
    """What each sigmoid gets, (images, units), in training mode, batch by batch; the network is left as it was."""
    copy = deepcopy(network).train()
    inputs: dict[nn.Module, list[Tensor]] = {module: [] for module in copy.modules() if isinstance(module, nn.Sigmoid)}
    with torch.inference_mode(), hooked(inputs, lambda sigmoid, given, output: inputs[sigmoid].append(given[0])):
        for images, _ in replace(feed, drop_single=True):
            copy(images)
    return [torch.cat(batches) for batches in inputs.values()]


def share_within(values: Tensor, limit: float) -> float:
    """The share of values nearer to 0 than a limit.

    Example:
        >>> share_within(torch.tensor([-2.0, -0.5, 0.0, 3.0]), 1.0)
        0.5
    """
    return (values.abs() < limit).double().mean().item()


CLAIM = Claim(
    number=9,
    name="affine",
    title="Without γ and β batch norm would hold a sigmoid in its linear region",
    sentence="""Normalizing the inputs of a sigmoid would constrain it to its linear region; the learned scale γ and
        shift β let the network undo that.""",
    sources=("Ioffe & Szegedy 2015", "two of four tutorials"),
    literature="""The motive that Ioffe & Szegedy 2015 give for γ and β; they did not test it. γ and β can undo a
        normalization by fixed statistics only (γ = σ, β = μ gives back the input): in training each batch has its own
        mean and variance, and what these vary by no γ and β can take away.""",
    literature_verdict="not tested",
    plainly="""A sigmoid squeezes any number to between 0 and 1. Near 0 it is almost a straight line, and layers of
        straight lines compute no more than one. Batch norm brings its inputs near 0; γ and β are two learned numbers
        for each unit that may spread and move them again.""",
    hypothesis=f"""Without γ and β more of the sigmoids' inputs lie within ±{LINEAR:g} (5 points at least: 68 % do if
        they are normally distributed), and the network is worse for it: its test loss is a tenth higher or more.""",
    control="""The same network with the same weights and γ, β; and without norm, only biases. Each at its own best
        rate.""",
    measure=f"""Four hidden layers of 128 sigmoids, {IMAGES:,} images in batches of {BATCH}, SGD with momentum 0.9,
        cosine schedule. Then the share of all sigmoid inputs within ±{LINEAR:g} (the sigmoid is straight to within 0.02
        there) on training images, each batch with its own statistics; and the loss on test images.""",
    arms={
        "none": "no norm, only biases",
        "bn": "batch norm with γ and β",
        "bn-no-affine": "batch norm without γ and β",
    },
    parts=(
        Part(
            name="the share in the linear region",
            says="share of sigmoid inputs in the linear region, without γ and β − with",
            effect=difference("linear_share", "bn-no-affine", "bn"),
            margin=0.05,
            unit="points",
        ),
        Part(
            name="the loss",
            says="test loss, without γ and β ÷ with",
            effect=log_ratio("nll", "bn-no-affine", "bn"),
            margin=math.log(1.1),
            unit="factor",
        ),
    ),
    primary="the share in the linear region",
    why_primary="The sentence speaks of where a sigmoid is held, and not of what that costs.",
    columns=(
        Column(metric="linear_share", heading="in the linear region %", unit="points", digits=1),
        Column(metric="spread", heading="spread of inputs"),
        Column(metric="spread_between", heading="± between units", digits=2),
        Column(metric="training_loss", heading="training loss", digits=2),
        Column(metric="nll", heading="NLL"),
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=2),
    ),
    picture=Picture(
        metric="linear_share",
        y="sigmoid inputs in the linear region, %",
        unit="points",
        text="""How many of the numbers that the trained network's sigmoids get lie where a sigmoid is nearly a straight
            line. Without γ and β it is the share within one standard deviation, whatever the network learns.""",
    ),
    cells=cells,
    run=run,
)

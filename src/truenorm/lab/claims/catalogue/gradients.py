"""Vanishing and exploding gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.errors import Diverged
from truenorm.lab.claims.claim import Cell, Claim, Column, Effect, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.networks import ACTIVATIONS, ARMS, NORMS, dense, initialised
from truenorm.lab.claims.residual import residual
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.hooks import hooked

DEPTHS = (5, 10, 20, 40)
WIDTH = 128
BATCH = 256
COMPARED = ("none", "bn", "ln")

SKIPS = "ReLU with skips"
NETWORKS = (*ACTIVATIONS, SKIPS)


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(COMPARED, activation=NETWORKS, depth=DEPTHS[1::2] if context.quick else DEPTHS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    depth: int = trial.where["depth"]
    network, layers = made(trial.where["activation"], context, trial.arm, depth=depth, width=WIDTH, seed=trial.seed)
    feed = context.feed("train", BATCH)
    order = torch.randperm(len(feed.split), generator=torch.Generator().manual_seed(trial.seed))
    images, labels = next(feed.in_order(order))
    sizes = gradients(network.double(), layers, images.double(), labels)
    on_step()
    if not all(0 < size < math.inf for size in sizes):
        raise Diverged("the gradient is 0 or not finite")
    ratio = math.log(sizes[0] / sizes[-1])
    yield trial.row("growth", ratio / (len(sizes) - 1))
    yield trial.row("ratio", ratio)


def made(
    network: str, context: ClaimsContext, arm: str, *, depth: int, width: int, seed: int
) -> tuple[nn.Module, Sequence[nn.Module]]:
    """A network as it is before training, and its hidden layers, of each the module that gives its output."""
    if network == SKIPS:
        whole = initialised(lambda: residual(context, NORMS[arm], depth=depth, width=width), seed)
        name = "layer"
    else:
        activation, gain = ACTIVATIONS[network]
        whole = initialised(
            lambda: dense(context, NORMS[arm], depth=depth, width=width, activation=activation), seed, gain=gain
        )
        name = activation.__name__.lower()
    return whole, [module for child, module in whole.named_children() if child.removeprefix(name).isdecimal()]


def gradients(network: nn.Module, layers: Sequence[nn.Module], images: Tensor, labels: Tensor) -> list[float]:
    """The size of the loss's gradient at the output of each layer: Euclidean, over all images together."""
    outputs: list[Tensor] = []
    with hooked(layers, lambda layer, inputs, output: outputs.append(output)):
        loss = F.cross_entropy(network(images), labels)
    return [gradient.norm().item() for gradient in torch.autograd.grad(loss, outputs)]


def _closer(network: str) -> Effect:
    """How much closer to "neither grows nor shrinks" batch norm comes than no norm, per layer."""
    return lambda evidence: evidence.paired(
        lambda none, bn: abs(none) - abs(bn), "growth", "none", "bn", activation=network, depth=DEPTHS[-1]
    )


CLAIM = Claim(
    number=7,
    name="gradients",
    title="Batch norm prevents vanishing and exploding gradients",
    sentence="Batch normalization keeps gradients from vanishing or exploding as they pass through many layers.",
    sources=("Ioffe & Szegedy 2015", "three of four tutorials"),
    literature="""Yang et al. 2019: without skip connections batch norm itself makes gradients explode at the start of
        training; with ReLU they grow by √(π/(π−1)) = 1.21 a layer, whatever the size of the weights. Ioffe & Szegedy
        2015 meant units that saturate (sigmoid, tanh), where a signal without norm fades or gets stuck.""",
    literature_verdict="depends: the activation",
    plainly="""A network learns from the gradient, which tells each layer how to change. It is computed backwards, from
        the last layer to the first. If every layer shrinks it a little, the first layers hear nothing (it vanishes); if
        every layer enlarges it, they are torn about (it explodes).""",
    hypothesis="""With batch norm the gradient's size changes less from layer to layer than without, for whatever
        activation, by 2 % a layer at least: over 40 layers that is a factor of 2.2.""",
    control="""The same network with the same weights without norm and with layer norm. The weights have the size that
        suits the activation without norm (He's for ReLU, variance 1/inputs for tanh and sigmoid).""",
    measure=f"""The size of the loss's gradient at the output of the first hidden layer, over that at the last, for
        {BATCH} training images and {WIDTH} units a layer; per layer: its n-th root, for n steps from layer to layer.
        Nothing is trained.""",
    arms={arm: ARMS[arm] for arm in COMPARED},
    parts=tuple(
        Part(
            name=network,
            says=f"change of the gradient per layer, up or down, none ÷ batch norm, {network}, {DEPTHS[-1]} layers",
            effect=_closer(network),
            margin=0.02,
            unit="factor",
        )
        for network in NETWORKS
    ),
    primary="ReLU",
    why_primary="""The sentence names no activation and no skip connections: ReLU is the usual activation, and a plain
        stack is what “many layers” says.""",
    columns=(
        Column(metric="growth", heading="gradient × per layer", unit="factor"),
        Column(metric="ratio", heading="first layer over last", unit="factor", digits=2),
    ),
    picture=Picture(
        metric="growth",
        y="gradient's growth per layer, backwards, ×",
        unit="factor",
        x="depth",
        x_title="hidden layers",
        panels="activation",
        log_x=True,
        log_y=True,
        text="""At 1 the gradient stays as large as it was. Below, it shrinks with every layer on its way to the first;
            above, it grows. Over 40 layers 0.9 leaves a sixtieth, and 1.21 makes it 1,700 times as large.""",
    ),
    cells=cells,
    run=run,
)

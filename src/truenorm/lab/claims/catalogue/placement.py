"""Where in a network batch norm stands."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import cycle

from torch import nn

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import NETWORKS, NORMS, Bias, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import BatchNorm, NormLayer

IMAGES, BATCH = 12_000, 64
RATES = (2.0**-9, 2.0**-7, 2.0**-5, 2.0**-3, 2.0**-1, 2.0)

Build = Callable[[NormLayer], nn.Module]
"""A norm layer → the network with it behind every hidden layer, before the activation."""


def every_second(build: Build) -> nn.Module:
    """Batch norm behind the first hidden layer and every second after it; behind the others a bias."""
    layers = cycle((BatchNorm, Bias))
    return build(lambda channels: next(layers)(channels))


def after_activations(build: Build) -> nn.Module:
    """Batch norm behind each activation; before it the layer has a bias.

    Example:
        >>> def build(layer):
        ...     return nn.Sequential(OrderedDict(linear1=nn.Linear(4, 8, bias=False), norm1=layer(8), relu1=nn.ReLU()))
        >>> [name for name, _ in after_activations(build).named_children()]
        ['linear1', 'norm1', 'relu1', 'after1']
    """
    layers: dict[str, nn.Module] = {}
    channels = 0
    for name, module in build(Bias).named_children():
        layers[name] = module
        if isinstance(module, Bias):
            channels = len(module.bias)
        if isinstance(module, nn.ReLU):
            layers[name.replace("relu", "after")] = BatchNorm(channels)
    return nn.Sequential(OrderedDict(layers))


def with_logits(build: Build) -> nn.Module:
    """Batch norm before each activation, and behind the last layer, too, which gives the logits."""
    network = build(BatchNorm)
    last = network.get_submodule("classes")
    assert isinstance(last, nn.Linear)
    return nn.Sequential(OrderedDict([*network.named_children(), ("logits", BatchNorm(last.out_features))]))


PLACES: Mapping[str, Callable[[Build], nn.Module]] = {
    "none": lambda build: build(NORMS["none"]),
    "before": lambda build: build(BatchNorm),
    "after": after_activations,
    "every-second": every_second,
    "logits": with_logits,
}


def cells(context: ClaimsContext) -> list[Cell]:
    lrs = RATES[1:4:2] if context.quick else RATES
    return grid(PLACES, lrs=lrs, steps=context.steps(IMAGES, BATCH), network=NETWORKS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    make = NETWORKS[trial.where["network"]]
    network = initialised(lambda: PLACES[trial.arm](lambda layer: make(context, layer)), trial.seed)
    trained(network, context.feed("train", BATCH), trial, on_step, epochs=context.epochs(IMAGES))
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    yield from trial.scores(scored(network, context, "test"), "accuracy", "nll")


CLAIM = Claim(
    number=18,
    name="placement",
    title="Batch norm belongs before the activation, after every layer",
    sentence="Add batch normalization after each layer, before its activation.",
    sources=("Ioffe & Szegedy 2015", "two of four tutorials"),
    literature="""A convention: Ioffe & Szegedy 2015 put it before the activation. No paper that was read for this list
        compares the places.""",
    literature_verdict="a convention",
    plainly="""A layer adds up its inputs with weights, and an activation then cuts off what is below 0. Batch norm can
        stand between the two or behind both; behind every layer or behind some; and behind the last, whose outputs say
        which class it is, or not. The question is whether it matters.""",
    hypothesis="""The network is at least half a point more accurate with batch norm before the activations than behind
        them; with it behind every hidden layer than behind every second; and, since the words say “each layer”, with it
        on the logits, too, than without.""",
    control="""The same network with batch norm elsewhere, the same initial weights, each at its own best rate. Beside
        it, not judged, no norm.""",
    measure=f"""Accuracy on test images; batches of {BATCH}, cosine rate, rates by factors of four, the best on
        validation images. Where no batch norm stands between layer and activation, there is a bias.""",
    arms={
        "none": "no norm, only biases",
        "before": "batch norm before each activation",
        "after": "batch norm behind each activation",
        "every-second": "batch norm before every second activation, from the first on",
        "logits": "batch norm before each activation, and on the logits",
    },
    parts=tuple(
        accuracy_part(
            name=f"{name} ({network})",
            says=f"accuracy, batch norm {says}, {network}",
            effect=difference("accuracy", *arms, network=network),
            margin=0.005,
        )
        for name, says, arms in (
            ("before the activation", "before − behind the activations", ("before", "after")),
            ("every layer", "behind every hidden layer − behind every second", ("before", "every-second")),
            ("the logits, too", "on the logits, too − not there", ("logits", "before")),
        )
        for network in NETWORKS
    ),
    primary="before the activation (cnn)",
    why_primary="""“Before its activation” is the one thing that the sentence says against another way of doing it that
        is in use; a CNN is the ordinary network for images.""",
    columns=(ACCURACY, Column(metric="nll", heading="NLL")),
    picture=accuracy_picture(
        panels="network",
        text="Each line is one way of placing batch norm; all have the same layers and initial weights.",
    ),
    cells=cells,
    run=run,
)

"""Whether features are bounded."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.lab.claims.claim import Cell, Claim, Column, Effect, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.training import trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.hooks import hooked
from truenorm.model.layers import batch_norms, stored_by
from truenorm.model.statistics import using

IMAGES = 8_000
"""Shown in training."""

BATCH = 64
BOUND = math.sqrt(BATCH - 1)
"""No value of a batch is further than this from the batch's mean, in the batch's standard deviations."""

LIMIT = 2 * BOUND
"""Within this, features count as bounded: twice what training allows."""

BRIGHTER = 16
"""Times as bright: as 12 bits a pixel are where 8 were expected."""

ARMS: Mapping[str, tuple[str, str]] = {
    "training": ("training", "in training, batches as they come"),
    "training-odd": ("training with an odd image", f"in training, one image in each batch {BRIGHTER} times as bright"),
    "inference": ("usual images at inference", "at inference, test images as they are"),
    "inference-inverted": ("inverted images at inference", "at inference, test images with black and white exchanged"),
    "inference-bright": ("bright images at inference", f"at inference, test images {BRIGHTER} times as bright"),
}
"""Arm → its name as a condition, and what it is."""

INFERENCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inference": lambda pixels: pixels,
    "inference-inverted": lambda pixels: 255 - pixels,
    "inference-bright": lambda pixels: BRIGHTER * pixels.float(),
}
"""Arm → what becomes of the pixels."""


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(["training"], lrs=(2.0**-5,), steps=context.steps(IMAGES, BATCH))


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: dense(context, NORMS["bn"]), trial.seed)
    trained(network, context.feed("train", BATCH), trial, on_step, epochs=context.epochs(IMAGES))
    with using(network):  # which training mode would change
        network.train()
        usual = [images for images, _ in context.feed("train", BATCH)]
        yield from _rows(trial, "training", furthest(network, usual))
        odd = (with_one_brighter(images, context) for images in usual)
        yield from _rows(trial, "training-odd", furthest(network, odd))
    network.eval()
    for arm, change in INFERENCE.items():
        batches = (context.scale(change(pixels)) for pixels in context.images.test.images.split(EVALUATION_BATCH))
        yield from _rows(trial, arm, furthest(network, batches))


def with_one_brighter(images: Tensor, context: ClaimsContext) -> Tensor:
    """The batch, its first image so many times as bright; scaled as the others are."""
    mean, std = context.scale.mean, context.scale.std
    return torch.cat([(BRIGHTER * (images[:1] * std + mean) - mean) / std, images[1:]])


def furthest(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    r"""Of each image the largest $|\hat x|$ that any batch norm gives it, in any channel, before γ and β.

    In training mode by the statistics of its batch, in evaluation mode by the stored ones; in float64.

    Example:
        >>> furthest(nn.BatchNorm1d(1).eval(), [torch.tensor([[3.0], [-4.0]])]).round(decimals=3).tolist()
        [3.0, 4.0]
    """
    images: list[Tensor] = []
    layers: list[Tensor] = []

    def look(norm: nn.BatchNorm1d, inputs: tuple[Tensor], output: Tensor) -> None:
        mean, var = (None, None) if norm.training else (values.double() for values in stored_by(norm).read(norm))
        values = F.batch_norm(inputs[0].double(), mean, var, training=norm.training, eps=norm.eps)
        layers.append(values.abs().flatten(1).amax(1))

    with hooked(batch_norms(network).values(), look), torch.no_grad():
        for batch in batches:
            layers.clear()
            network(batch)
            images.append(torch.stack(layers).amax(0))
    return torch.cat(images)


def _rows(trial: ClaimTrial, arm: str, values: Tensor) -> Rows:
    yield trial.row("largest", values.max().item(), arm, n=len(values))
    yield trial.row("beyond", (values > BOUND).double().mean().item(), arm, n=len(values))


def within(arm: str) -> Effect:
    """Seed → logarithm of the limit over the largest value: positive where that is within."""
    return lambda evidence: {
        seed: math.log(LIMIT / largest) for seed, largest in evidence.by_seed("largest", arm).items()
    }


CLAIM = Claim(
    number=10,
    name="bounded",
    title="Batch norm keeps features bounded",
    sentence="Batch normalization keeps the values of a network's features within bounds.",
    sources=("one of four tutorials",),
    literature="""Arithmetic: of n values none is further than √(n−1) standard deviations from their mean (Samuelson
        1968), so that what batch norm gives in training is bounded, before γ and β. At inference mean and standard
        deviation are stored, and what is divided by them can be as large as it likes.""",
    literature_verdict="in training only",
    plainly="""In training batch norm measures each value against its own batch. A value that is far from all others
        makes the standard deviation larger, by which it is divided itself: it cannot get far. At inference the standard
        deviation is a stored number, and does not grow with the value.""",
    hypothesis=f"""Whatever images come, no feature is further from its mean than {LIMIT:.1f} standard deviations: twice
        the √{BATCH - 1} = {BOUND:.1f} that batches of {BATCH} allow in training. A limit that is kept with less than 10
        % to spare is none to rely on.""",
    control="The same trained network in training mode, where the bound is a matter of arithmetic.",
    measure=f"""The largest |x̂| (what batch norm gives before γ and β) over images, features and the four batch norms
        of an MLP that was trained in batches of {BATCH}. In training: on training images, each batch by its own
        statistics. At inference: on test images, by the stored averages. Brighter images have pixels beyond 255. In a
        CNN, n counts the positions of an image too, so that the bound of training is wider there.""",
    arms={arm: what for arm, (_, what) in ARMS.items()},
    parts=tuple(
        Part(
            name=name,
            says=f"room: {LIMIT:.1f} σ ÷ the largest value, {name}",
            effect=within(arm),
            margin=math.log(1.1),
            unit="factor",
        )
        for arm, (name, _) in ARMS.items()
    ),
    primary="usual images at inference",
    why_primary="""The sentence speaks of a network's features at all times. In training the bound is arithmetic and
        needs no experiment; in use a network gets images like those that it knows.""",
    columns=(
        Column(metric="largest", heading="largest value, σ"),
        Column(metric="beyond", heading=f"images beyond {BOUND:.1f} σ, %", unit="points", digits=1),
    ),
    picture=Picture(
        metric="largest",
        y="largest value, σ",
        log_y=True,
        text=f"""How far the furthest feature is from its mean, in standard deviations. In training it cannot be beyond
            {BOUND:.1f}, however odd an image is; at inference nothing holds it.""",
    ),
    cells=cells,
    run=run,
)

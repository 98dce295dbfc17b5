"""Normalizing across the features of each sample, which batch norm does not."""

import torch
from torch import Tensor, nn

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import value
from truenorm.lab.claims.networks import ARMS, NORMS, dense, initialised
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep

SIZES = (16, 64, 256)
JUDGED = 64

WATCHED = 16
"""Samples whose output is looked at while the others in their batch are exchanged."""

COMPARED = ("bn", "ln")


def cells(context: ClaimsContext) -> list[Cell]:
    return [
        Cell(arm=arm, where={"batch_size": size})
        for arm in COMPARED
        for size in SIZES
        if WATCHED + 2 * (size - 1) <= len(context.images.train)
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: dense(context, NORMS[trial.arm], depth=1), trial.seed)
    layer, norm = network.get_submodule("linear1"), network.get_submodule("norm1")
    size = trial.where["batch_size"]
    draw = torch.Generator().manual_seed(trial.seed)
    rows = torch.randperm(len(context.images.train), generator=draw)[: WATCHED + 2 * (size - 1)]
    with torch.inference_mode():
        features = layer(context.scale(context.images.train.images[rows]).flatten(1))
        watched, others = features[:WATCHED], features[WATCHED:].chunk(2)
        yield trial.row("centred", centred(norm, features[:size]))
        yield trial.row("alone", alone(norm, watched, *others), n=WATCHED)
    on_step()


def centred(norm: nn.Module, features: Tensor) -> float:
    r"""How much of the differences between samples' means over features a norm takes away.

    $$ 1 - \frac{s(\mathrm{norm}(x))}{s(x)} \qquad
       s(x) = \frac{\mathrm{sd}_i(\mathrm{mean}_k x_{ik})}{\mathrm{rms}_k(\mathrm{sd}_i\, x_{ik})} $$

    1 where each sample is normalised across its features: then all means are 0. In units of what features differ by,
    so that a norm that only rescales takes nothing away.

    Example:
        >>> features = torch.randn(64, 32)
        >>> round(centred(nn.LayerNorm(32), features), 3), round(centred(nn.Identity(), features), 3)
        (1.0, 0.0)
    """
    return 1 - _differing_means(norm(features)) / _differing_means(features)


def alone(norm: nn.Module, watched: Tensor, others: Tensor, exchanged: Tensor) -> float:
    r"""How far a sample's output does not depend on the samples that are with it in the batch.

    $$ 1 - \frac{\mathrm{rms}(y - y')}{\mathrm{rms}(y)} $$

    Args:
        norm: in training mode.
        watched: samples; each is put into a batch by itself.
        others: what is with it, which gives y.
        exchanged: what is with it instead, which gives y'.

    Example:
        >>> parts = torch.randn(4, 32), torch.randn(63, 32), torch.randn(63, 32)
        >>> alone(nn.LayerNorm(32), *parts), alone(nn.BatchNorm1d(32), *parts) < 1
        (1.0, True)
    """
    with_others, with_exchanged = (
        torch.stack([norm(torch.cat([sample[None], rest]))[0] for sample in watched]) for rest in (others, exchanged)
    )
    return 1 - (_rms(with_others - with_exchanged) / _rms(with_others)).item()


def _differing_means(values: Tensor) -> float:
    return (values.double().mean(1).std() / _rms(values.double().std(0))).item()


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


CLAIM = Claim(
    number=16,
    name="per-sample",
    title="Batch norm normalizes across the features of each sample",
    sentence="Batch normalization also normalizes across the features for each sample.",
    sources=("one of four tutorials, against its own next sentence",),
    literature="""Wrong by definition: batch norm takes each feature across the samples of a batch (Ioffe & Szegedy
        2015); each sample across its features is layer norm (Ba et al. 2016).""",
    literature_verdict="wrong",
    plainly="""A batch is a table: a row for each image, a column for each feature. Batch norm brings every column to
        mean 0 and standard deviation 1; the claim says that it does so with every row.""",
    hypothesis="""If rows are normalised, all of them have the same mean afterwards, and what comes out for an image
        does not depend on which other images are in the batch. Both shares are 1, or nearly.""",
    control="Layer norm, which does normalise rows: both shares are exactly 1.",
    measure=f"""The first hidden layer of an untrained MLP, features of real images, norms as in training. First: how
        much smaller the differences between images' means over features become, in units of what features differ by.
        Second: for {WATCHED} images, 1 less the relative change of what comes out when all others in the batch are
        exchanged. Both are judged at batch {JUDGED}; less than 95 % is not what the claim says.""",
    arms={arm: ARMS[arm] for arm in COMPARED},
    parts=tuple(
        Part(
            name=name,
            says=f"{says}, batch {JUDGED}",
            effect=value(metric, "bn", batch_size=JUDGED),
            margin=0.95,
            unit="points",
        )
        for name, says, metric in (
            ("the means of samples", "differences between samples' means that batch norm takes away", "centred"),
            ("other samples", "share of a sample's output that does not depend on the others", "alone"),
        )
    ),
    primary="the means of samples",
    why_primary="To normalize across a sample's features is to give every sample the same mean.",
    columns=(
        Column(metric="centred", heading="differences of means taken away %", unit="points", digits=1),
        Column(metric="alone", heading="independent of the others %", unit="points", digits=1),
    ),
    picture=Picture(
        metric="alone",
        y="independent of the other images, %",
        unit="points",
        x="batch_size",
        x_title="images in a batch",
        log_x=True,
        text="""What comes out of layer norm for an image is its own at any batch size. With batch norm the other images
            have a part in it, the larger the fewer they are.""",
    ),
    cells=cells,
    run=run,
)

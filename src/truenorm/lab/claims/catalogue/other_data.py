"""Data at inference that differ from those of training."""

import torch
from torch import Tensor, nn

from truenorm.lab.claims.accuracy import accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Rows
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.corruption import BLUR, CONTRAST, CORRUPTIONS, NOISE
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import NORMS, convolutional, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.images.sets import Split
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.study.training import predict
from truenorm.metrics.classification import Scores, scores
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

IMAGES = 18_000
"""Shown in each training."""

BATCH = 64

TESTED = 2_000
"""Test images, at most: where there are more, each seed draws its own."""

SIZES = (8, 32, 128)
"""How many corrupted images, without labels, the statistics are taken from."""

JUDGED = "adapted-128"

ONE_CLASS = 32
"""How many, at most, where all are of one class."""

TAKEN = {f"adapted-{size}": size for size in SIZES} | {"one-class": ONE_CLASS}
"""Arm → images that its statistics are taken from."""

PRIOR = 16
"""How many images the statistics of training weigh as much as."""

UNCHANGED = "unchanged"
PLACES = (UNCHANGED, *CORRUPTIONS)

ARMS = {
    "stored": "batch norm as it is used: the statistics of training",
    **{
        f"adapted-{size}": f"batch norm, statistics of {size} other images of the kind it is asked about"
        for size in SIZES
    },
    "one-class": f"batch norm, asked about one class at a time, statistics of up to {ONE_CLASS} images of that class",
    "ln": "layer norm, which stores no statistics",
    "gn": "group norm, which stores none either",
}


def cells(context: ClaimsContext) -> list[Cell]:
    whole = context.steps(IMAGES, BATCH)
    return [
        # A network that was trained for one place is used again for the others.
        Cell(
            arm=arm,
            where={"images": place},
            lrs=context.rates(-6, -2),
            steps=whole if arm not in TAKEN and place == UNCHANGED else 1,
        )
        for arm in ARMS
        if TAKEN.get(arm, 0) <= len(context.images.validation)
        for place in PLACES
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = _NETWORKS.trained(trial, context, on_step)
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    draw = torch.Generator().manual_seed(trial.seed)
    test = shown(context.images.test, trial.where["images"], draw, most=TESTED)
    if trial.arm in TAKEN:
        pool = shown(context.images.validation, trial.where["images"], draw)
        tested = (one_class if trial.arm == "one-class" else adapted)(network, context, pool, test, TAKEN[trial.arm])
    else:
        tested = scores(predict(network, _feed(context, test)), test.labels)
    yield from trial.scores(tested, "accuracy", "nll")


def shown(split: Split, place: str, draw: torch.Generator, *, most: int | None = None) -> Split:
    """The images in an order that is drawn, as they are at a place."""
    order = torch.randperm(len(split), generator=draw)[:most]
    images = split.images[order]
    return Split(CORRUPTIONS[place](images, draw) if place in CORRUPTIONS else images, split.labels[order])


def adapted(network: nn.Module, context: ClaimsContext, pool: Split, test: Split, size: int) -> Scores:
    """Of test images, with statistics of the first images of the pool."""
    with using(network, mixed_statistics(network, context.scale(pool.images[:size]))):
        return scores(predict(network, _feed(context, test)), test.labels)


def one_class(network: nn.Module, context: ClaimsContext, pool: Split, test: Split, size: int) -> Scores:
    """The same where images come class by class: those of each with statistics of images of that class.

    Of a class that the pool lacks, the statistics of training stay.
    """
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for label in test.labels.unique():
        seen = pool.images[pool.labels == label][:size]
        mine = Split(test.images[test.labels == label], test.labels[test.labels == label])
        with using(network, mixed_statistics(network, context.scale(seen)) if len(seen) else None):
            logits.append(predict(network, _feed(context, mine)))
        labels.append(mine.labels)
    return scores(torch.cat(logits), torch.cat(labels))


def mixed_statistics(network: nn.Module, images: Tensor) -> Statistics:
    """Each layer's statistics of training, mixed with those of what arrives at it from images.

    What arrives depends on the statistics of the layers before, so that there are as many passes as layers.

    Source: Schneider et al. 2020.
    """
    source = mixture = statistics(network)
    for _ in source:
        with using(network, mixture):
            target = measure(network, [images], flow="eval")
        mixture = Statistics({name: mixed(source[name], target[name], len(images)) for name in source})
    return mixture


def mixed(source: Moments, target: Moments, size: int) -> Moments:
    r"""Of the source as much as `PRIOR` images weigh, of the target as much as there are.

    $$ \mu = \frac{N \mu_s + n \mu_t}{N + n} \qquad \sigma^2 = \frac{N \sigma_s^2 + n \sigma_t^2}{N + n} $$

    An estimate for the target that shrinks towards the source, not the moments of both together: those would have
    the distance of the means in their variance.

    Example:
        >>> zeros, ones = torch.zeros(1), torch.ones(1)
        >>> mixed(Moments(zeros, ones), Moments(ones, 3 * ones), 48).var.item()
        2.5
    """
    share = size / (PRIOR + size)
    return Moments(
        torch.lerp(source.mean.double(), target.mean.double(), share),
        torch.lerp(source.var.double(), target.var.double(), share),
    )


class Networks:
    """The networks that this process trained: trials that ask different things of one network train it once.

    What comes back does not depend on what is kept: whoever asks leaves the network as it was.
    """

    def __init__(self) -> None:
        self._context: ClaimsContext | None = None
        self._kept: dict[tuple[str, int, float | None], nn.Module] = {}

    def trained(self, trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> nn.Module:
        """That of a trial's norm, seed and rate.

        Raises:
            Diverged: the loss is not finite.
        """
        if context is not self._context:
            self._context, self._kept = context, {}
        norm = _norm(trial.arm)
        key = norm, trial.seed, trial.lr
        if key not in self._kept:
            network = initialised(lambda: convolutional(context, NORMS[norm]), trial.seed)
            trained(network, context.feed("train", BATCH), trial, on_step, epochs=context.epochs(IMAGES))
            self._kept[key] = network
        return self._kept[key]


_NETWORKS = Networks()


def _feed(context: ClaimsContext, split: Split) -> Feed:
    return Feed(split, context.scale, EVALUATION_BATCH)


def _norm(arm: str) -> str:
    return arm if arm in NORMS else "bn"


CLAIM = Claim(
    number=14,
    name="other-data",
    title="Batch norm suffers when the data at inference differ",
    sentence="""Batch norm uses other statistics at inference than in training; where the data differ from those it was
        trained on, the stored statistics no longer fit, and the network gets worse.""",
    sources=("one of four tutorials",),
    literature="""Supported: statistics of the new data repair much of the harm (Li 2016, AdaBN; Schneider 2020; Wang
        2021, TENT). Nado 2020: mixed where the shift is natural. Niu 2023: taking them fails where batches are tiny,
        mixed, or of few classes.""",
    literature_verdict="holds",
    plainly="""Batch norm subtracts a mean and divides by a standard deviation that were stored in training. On darker,
        noisier or blurred images the right ones would be others. Whoever has some such images, without knowing what
        they show, can measure them anew and leave the weights as they are: what that gains is what the wrong ones
        cost.""",
    hypothesis="""On each kind of corrupted images the same network is more accurate by a point at least with statistics
        of such images than with those of training.""",
    control="""The same network, the same weights, the same test images: only the statistics differ. Beside it, not
        judged: unchanged images, layer norm and group norm, which have no statistics to be wrong, and a stream of one
        class at a time, where new statistics take away what tells the class.""",
    measure=f"""A CNN trained on the images as they are, rate tuned for each norm. Then accuracy on test images with
        contrast times {CONTRAST:g}, with noise of {NOISE:.0%} of the range of a pixel, and blurred by {BLUR:.0%} of
        their height. New statistics are those of n images that are neither trained on nor tested on, mixed layer by
        layer with the stored ones, which weigh as much as {PRIOR} images (Schneider 2020); n = {SIZES[-1]} is
        judged.""",
    arms=ARMS,
    parts=tuple(
        accuracy_part(
            name=f"{place} images",
            says=f"accuracy with statistics of {SIZES[-1]} {place} images − with those of training",
            effect=difference("accuracy", JUDGED, "stored", images=place),
            margin=0.01,
        )
        for place in CORRUPTIONS
    ),
    primary="low contrast images",
    why_primary="""The sentence says that the stored statistics no longer fit. Lower contrast changes mean and spread
        of an image's pixels, and nothing else of it.""",
    columns=(
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=1),
        Column(metric="nll", heading="NLL"),
    ),
    picture=accuracy_picture(
        panels="images",
        text="""Each panel is one kind of images. Where the stored statistics are left of the adapted ones, they no
            longer fit; where images come one class at a time, adapting does harm.""",
    ),
    cells=cells,
    run=run,
)

"""The batch size."""

from collections.abc import Mapping
from dataclasses import replace

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import ARMS, NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import first, scored, scored_in_batches, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.study.arms import sequential
from truenorm.model.measure import measure
from truenorm.model.statistics import using

IMAGES = 8_000
"""Shown in each training, whatever the batch."""

SUBSET = 2_000
"""Training images, at most: small batches take long."""

SMALL, LARGE = 4, 64
BATCHES = (SMALL, 16, LARGE)
RATES = (2.0**-9, 2.0**-7, 2.0**-5, 2.0**-3, 2.0**-1)


INSTEAD: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gn": ("group norm", ("mlp", "cnn")),
    "ln": ("layer norm", ("mlp", "cnn")),
    "in": ("instance norm", ("cnn",)),
}
"""Arm → its name, and the networks that can have it: of one value per channel nothing is left by instance norm."""


def cells(context: ClaimsContext) -> list[Cell]:
    lrs, batches = (RATES[1:4:2], (SMALL, LARGE)) if context.quick else (RATES, BATCHES)
    shown = _epochs(context) * min(SUBSET, len(context.images.train))
    return [
        replace(cell, steps=shown // cell.where["batch_size"])
        for cell in grid(("bn", *INSTEAD), lrs=lrs, network=NETWORKS, batch_size=batches)
        if cell.arm == "bn" or cell.where["network"] in INSTEAD[cell.arm][1]
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: NETWORKS[trial.where["network"]](context, NORMS[trial.arm]), trial.seed)
    feed = first(context.feed("train", trial.where["batch_size"]), SUBSET)
    trained(network, feed, trial, on_step, epochs=_epochs(context))
    if trial.tuning:
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    yield from trial.scores(scored(network, context, "test"), "accuracy")
    if trial.arm == "bn":
        for arm, stats in (("bn-joint", measure(network, feed)), ("bn-sequential", sequential(network, feed))):
            with using(network, stats):
                yield from trial.scores(scored(network, context, "test"), "accuracy", arm=arm)
        by_batches = scored_in_batches(network, context.feed("test", feed.batch_size))
        yield from trial.scores(by_batches, "accuracy", arm="bn-batch")


def _epochs(context: ClaimsContext) -> int:
    shown = IMAGES // 4 if context.quick else IMAGES
    return max(2, round(shown / min(SUBSET, len(context.images.train))))


CLAIM = Claim(
    number=11,
    name="batch-size",
    title="Small batches harm batch norm; layer, group or instance norm are better then",
    sentence="""With small batches the statistics are noisy and batch norm does badly: use larger batches, or layer
        norm, group norm or instance norm instead.""",
    sources=("Wu & He 2018", "three of four tutorials"),
    literature="""Supported (Ioffe 2017, Wu & He 2018, Singh & Shrivastava 2019, Yan et al. 2020, Wu & Johnson 2021). A
        part of the harm is in what is stored for inference, and a pass over the data gives it back.""",
    literature_verdict="holds",
    plainly="""Batch norm looks at a few images at a time to know what is usual. Of two images it learns little about
        that. The question is how much worse a network becomes, and whether other norms, which look at one image alone,
        do better.""",
    hypothesis=f"""Trained on equally many images, batch norm is at least a point more accurate with batches of {LARGE}
        than with {SMALL}, and with batches of {SMALL} group, layer and instance norm are at least a point better than
        it.""",
    control="""The same networks with group, layer or instance norm. And the same weights with other statistics: of a
        pass at the training batch size, of a pass as inference sees the data, and of each test batch itself.""",
    measure=f"""Accuracy on test images after so many epochs for every batch size. Cosine rate; rates by factors of
        four, for each norm and batch size the best on validation images. At most {SUBSET} training images.""",
    arms={
        "bn": "batch norm as it is used",
        "bn-joint": "the same weights, statistics of a pass in batches of that size",
        "bn-sequential": "the same weights, statistics as inference sees the data",
        "bn-batch": "the same weights, each test batch by its own statistics",
        **{arm: ARMS[arm] for arm in ("gn", "ln", "in")},
    },
    parts=(
        *(
            accuracy_part(
                name=f"small batches ({network})",
                says=f"accuracy, batch norm, batch {LARGE} − batch {SMALL}, {network}",
                effect=difference("accuracy", "bn", "bn", network=network, batch_size=LARGE, at={"batch_size": SMALL}),
                margin=0.01,
            )
            for network in NETWORKS
        ),
        *(
            accuracy_part(
                name=f"{name} ({network})",
                says=f"accuracy at batch {SMALL}, {name} − batch norm, {network}",
                effect=difference("accuracy", arm, "bn", network=network, batch_size=SMALL),
                margin=0.01,
            )
            for arm, (name, networks) in INSTEAD.items()
            for network in networks
        ),
    ),
    primary="small batches (cnn)",
    why_primary="""The sentence says first that small batches harm, and then what to use instead; a CNN is the ordinary
        network for images.""",
    columns=(ACCURACY,),
    picture=accuracy_picture(
        x="batch_size",
        x_title="images per batch",
        log_x=True,
        panels="network",
        without=("bn-batch",),
        text="""To the left are small batches. Where a curve of the same weights with other statistics lies above that
            of batch norm, the harm is in what was stored, not in what was learned.""",
    ),
    cells=cells,
    run=run,
)

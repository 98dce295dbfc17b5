"""A momentum for each layer against batch-free norms."""

from collections.abc import Mapping
from functools import partial

from truenorm.lab.claims.accuracy import ACCURACY, accuracy_part, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Column, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import norm_layer
from truenorm.lab.study.arms import sweep
from truenorm.model.measure import measure
from truenorm.model.statistics import using
from truenorm.model.watch import watch
from truenorm.rules import Static

IMAGES, BATCH = 15_000, 64
RATES = (2.0**-7, 2.0**-5, 2.0**-3, 2.0**-1, 2.0)

FREE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "bfn-layer": ("batch norm and layer norm in turn", {"mlp": "layer", "cnn": "layer"}),
    "bfn-groups": (
        "batch norm and group norm in turn, groups of 8 values (mlp) or of 1 channel (cnn)",
        {"mlp": "group:16", "cnn": "group:64"},
    ),
}
"""Arm → what it is; network → its batch-free norm. 64 groups of no more channels than that are the paper's."""

JUDGED: Mapping[str, Mapping[str, str]] = {
    "mlp": {"bfn-layer": "layer norm", "bfn-groups": "group norm"},
    "cnn": {"bfn-layer": "layer norm", "bfn-groups": "instance norm"},
}
"""Network → arm → what its batch-free norm is there."""

MEASURED = ("accuracy", "f_score", "nll")


def cells(context: ClaimsContext) -> list[Cell]:
    lrs = RATES[1:4] if context.quick else RATES
    return grid(("bn", *FREE, "gn"), lrs=lrs, steps=context.steps(IMAGES, BATCH), network=NETWORKS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    name = trial.where["network"]
    norm = norm_layer("bn-bfn", bfn=FREE[trial.arm][1][name]) if trial.arm in FREE else NORMS[trial.arm]
    network = initialised(lambda: NETWORKS[name](context, norm), trial.seed)
    feed = context.feed("train", BATCH)
    train = partial(trained, network, feed, trial, on_step, epochs=context.epochs(IMAGES))
    if trial.tuning:
        train()
        yield trial.row("score", -scored(network, context, "validation").nll)
        return
    if trial.arm != "bn":
        train()
        yield from trial.scores(scored(network, context, "test"), *MEASURED)
        return
    with watch(network, (Static(sweep(())),)) as watched:
        train()
    population = measure(network, feed)
    for arm, stats in (
        ("bn", watched["static-0.1"]),
        ("dmbn", watched.best(population)),
        ("recalibrated", population),
    ):
        with using(network, stats):
            yield from trial.scores(scored(network, context, "test"), *MEASURED, arm=arm)


CLAIM = Claim(
    number=19,
    name="dynamic-momentum",
    title="A momentum for each layer (DMBN) beats batch-free norms (BN-BFN)",
    sentence="""Giving each layer the momentum that minimises its estimation shift is more accurate at inference than
        putting batch-free norms between batch norms: 0.889 against 0.853 on Fashion-MNIST.""",
    sources=('the dissertation "Understanding Batch-Normalization in Deep Neural Networks" (2025)',),
    literature="""Nothing but the dissertation's abstract, which gives neither network nor batch size, seeds or groups.
        Huang et al. 2022, who proposed batch-free norms between batch norms, report gains over plain batch norm.""",
    literature_verdict="no other source",
    plainly="""At inference batch norm uses averages gathered while it trained. Two remedies for wrong averages are
        compared: choose for each layer how fast its averages forget; or replace some layers by norms that need no
        averages.""",
    hypothesis="""At least half a point of accuracy more for DMBN than for either batch-free norm; and, if that is the
        momentum's doing, than for torch's momentum on the same weights.""",
    control="""Two choices of the batch-free norm; plain batch norm with torch's momentum of 0.1, and with statistics of
        a pass, on the very weights of DMBN; group norm everywhere.""",
    measure=f"""Accuracy on test images; batches of {BATCH}, cosine rate, for each network and norm the best of rates by
        factors of four on validation images. DMBN: of 16 momenta followed in the same training, for each layer the
        nearest to the statistics of the training images.""",
    arms={
        "bn": "batch norm, torch's momentum 0.1",
        "dmbn": "the same weights, for each layer the best of 16 momenta",
        "recalibrated": "the same weights, statistics of a pass over the training images",
        **{arm: what for arm, (what, _) in FREE.items()},
        "gn": "group norm everywhere",
    },
    parts=tuple(
        accuracy_part(
            name=f"{name} ({network})",
            says=f"accuracy, DMBN − {name} {how}, {network}",
            effect=difference("accuracy", "dmbn", arm, network=network),
            margin=0.005,
        )
        for network, arm, name, how in (
            *((network, *norm, "between batch norms") for network, norms in JUDGED.items() for norm in norms.items()),
            *((network, "bn", "torch's momentum", "of 0.1, same weights") for network in NETWORKS),
        )
    ),
    primary="instance norm (cnn)",
    why_primary="""The sentence compares with BN-BFN, which is Huang et al.'s: their batch-free norm is a group norm of
        64 groups, and in a CNN of at most 64 channels that is instance norm.""",
    columns=(
        ACCURACY,
        Column(metric="f_score", heading="F-score %", unit="points", digits=2),
        Column(metric="nll", heading="NLL"),
    ),
    picture=accuracy_picture(
        panels="network",
        text="The first three have the same weights and differ only in the averages used at inference.",
    ),
    cells=cells,
    run=run,
)

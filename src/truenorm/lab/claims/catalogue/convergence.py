"""Faster convergence."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress

from torch import nn

from truenorm.errors import Diverged
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.networks import ARMS, NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import first, loss_on, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import NormLayer
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d

IMAGES, BATCH = 15_000, 32
"""Shown at most, and at each step."""

TARGETS = {"digits": 0.1}
TARGET = 0.2
"""The loss to come to, as a share of what guessing gives; digits are easy."""

LOOKS = 150
"""How often the loss is looked at on the way, at most."""

LOOKED_AT = 1000
"""Over how many images, at most."""

OURS: Mapping[str, NormLayer] = {"mlp": BatchNorm1d, "cnn": BatchNorm2d}


def cells(context: ClaimsContext) -> list[Cell]:
    return grid(CLAIM.arms, lrs=context.rates(-7, 0), steps=context.steps(IMAGES, BATCH), network=NETWORKS)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    name = trial.where["network"]
    norm_layer = OURS[name] if trial.arm == "bn-pooled" else NORMS[trial.arm]
    network = initialised(lambda: NETWORKS[name](context, norm_layer), trial.seed)
    feed = context.feed("train", BATCH)
    looked_at = first(context.feed("validation" if trial.tuning else "test", EVALUATION_BATCH), LOOKED_AT)
    race = _Race(network, looked_at, context, on_step)
    try:
        with suppress(_There):
            trained(network, feed, trial, race.step, epochs=context.epochs(IMAGES), schedule="constant")
    except Diverged:
        if not trial.tuning:
            raise
    if trial.tuning:
        yield trial.row("score", -math.log(race.steps or 4 * context.steps(IMAGES, BATCH)))
        return
    yield trial.row("arrived", float(race.steps is not None))
    if race.steps is not None:
        yield trial.row("steps", math.log(race.steps))
        yield trial.row("seconds", math.log(race.steps * race.seconds / race.taken))


class _There(Exception):
    """The loss has come to the target."""


class _Race:
    """Looks at the loss now and then, until it has come to the target.

    Attributes:
        steps: how many it took, between two looks by interpolation; None while it has not.
        taken: steps that were taken.
        seconds: of processor time that these took, without the looks.
    """

    def __init__(self, network: nn.Module, feed: Feed, context: ClaimsContext, on_step: OnStep) -> None:
        self._network, self._feed, self._on_step = network, feed, on_step
        guessing = math.log(context.num_classes)
        self._target = TARGETS.get(context.images.name, TARGET) * guessing
        self._last = guessing
        self._every = max(1, context.steps(IMAGES, BATCH) // LOOKS)
        self._begun = time.thread_time()
        self.steps: float | None = None
        self.taken, self.seconds = 0, 0.0

    def step(self) -> None:
        self.taken += 1
        if not self.taken % self._every:
            self.seconds += time.thread_time() - self._begun
            self._look()
            self._begun = time.thread_time()
        self._on_step()

    def _look(self) -> None:
        loss = loss_on(self._network, self._feed)
        if loss <= self._target:
            past = (self._last - self._target) / (self._last - loss) if self._last > loss else 1.0
            self.steps = self.taken - self._every * (1 - past)
            raise _There
        self._last = loss


CLAIM = Claim(
    number=1,
    name="faster-convergence",
    title="Batch norm makes training converge faster",
    sentence="Batch normalization speeds up training: the network comes to the same loss in fewer steps.",
    sources=("Ioffe & Szegedy 2015", "three of four tutorials", "the dissertation's abstract"),
    literature="""Ioffe & Szegedy 2015: 14 times fewer steps for Inception. Bjorck et al. 2018: the cause is the larger
        learning rate that it bears.""",
    literature_verdict="holds, through the larger rate",
    plainly="""Training is a walk downhill, and the loss says how high up one still is. The question is how many steps
        it takes to come down to a fixed height, and how much time, if every network may walk at the pace that suits it
        best.""",
    hypothesis="With batch norm it takes at least a fifth fewer steps, and a fifth less time, than without norm.",
    control="""The same network without norm, from He's initial weights, and with layer norm; each at its own best rate.
        And truenorm's batch norm (bn-pooled): trained alike, other stored averages.""",
    measure=f"""Steps and processor time until the loss on test images, in evaluation mode, is {TARGET:.0%} of what
        guessing gives ({TARGETS["digits"]:.0%} on digits, which are easy); batches of {BATCH}, constant rate after a
        warm-up over the first tenth, SGD with momentum 0.9. Rates by factors of two, the best on validation images.""",
    arms={
        **{arm: ARMS[arm] for arm in ("none", "bn")},
        "bn-pooled": "batch norm with truenorm's running statistics",
        "ln": ARMS["ln"],
    },
    parts=tuple(
        Part(
            name=f"{metric} ({network})",
            says=f"{metric} to the target loss, none ÷ batch norm, {network}",
            effect=difference(metric, "none", "bn", network=network),
            margin=math.log(1.25),
            unit="factor",
        )
        for network in NETWORKS
        for metric in ("steps", "seconds")
    ),
    primary="steps (cnn)",
    why_primary="The sentence speaks of steps, and of no network: a CNN is the ordinary one for images.",
    columns=(
        Column(metric="steps", heading="steps", unit="factor"),
        Column(metric="seconds", heading="seconds", unit="factor"),
        Column(metric="arrived", heading="arrived %", unit="points", digits=0),
    ),
    picture=Picture(
        metric="steps",
        y="steps to the target loss",
        unit="factor",
        log_y=True,
        panels="network",
        text="How many steps each network needs to come to the same loss, each at the learning rate best for it.",
    ),
    cells=cells,
    run=run,
)

"""Faster convergence."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

from torch import nn

from truenorm.errors import Diverged
from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import ARMS, NETWORKS, NORMS, initialised
from truenorm.lab.claims.training import loss_on, training
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.networks.norms import NormLayer
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d
from truenorm.record import Measurement

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
    return [
        Cell(arm=arm, where={"network": network}, lrs=context.rates(-7, 0), steps=context.steps(IMAGES, BATCH))
        for network in NETWORKS
        for arm in CLAIM.arms
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: Callable[[], None]) -> Iterator[Measurement]:
    name = trial.where["network"]
    norm_layer = OURS[name] if trial.arm == "bn-pooled" else NORMS[trial.arm]
    network = initialised(lambda: NETWORKS[name](context, norm_layer), trial.seed)
    feed = context.feed("train", BATCH)
    race = _Race(network, context, "validation" if trial.tuning else "test", context.steps(IMAGES, BATCH), on_step)
    going = training(network, feed, trial, epochs=context.epochs(IMAGES), schedule="constant")
    try:
        while going.epoch < context.epochs(IMAGES):
            going.run_epoch(race.step)
    except _There:
        pass
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

    def __init__(
        self, network: nn.Module, context: ClaimsContext, part: str, limit: int, on_step: Callable[[], None]
    ) -> None:
        self._network, self._context, self._part, self._on_step = network, context, part, on_step
        self._target = TARGETS.get(context.images.name, TARGET) * math.log(context.num_classes)
        self._every = max(1, limit // LOOKS)
        self._last = math.log(context.num_classes)
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
        loss = loss_on(self._network, self._context, self._part, LOOKED_AT)
        if loss <= self._target:
            past = (self._last - self._target) / (self._last - loss) if self._last > loss else 1.0
            self.steps = self.taken - self._every * (1 - past)
            raise _There
        self._last = loss


def _saved(metric: str, network: str) -> Callable[[Evidence], Mapping[int, float]]:
    return lambda evidence: evidence.difference(metric, "none", "bn", network=network)


CLAIM = Claim(
    number=1,
    name="faster-convergence",
    title="Batch norm makes training converge faster",
    sentence="Batch normalization speeds up training: the network comes to the same loss in fewer steps.",
    sources=("Ioffe & Szegedy 2015", "three of four tutorials", "the dissertation's abstract"),
    literature=(
        "Ioffe & Szegedy 2015: 14 times fewer steps for Inception. Bjorck et al. 2018: the cause is the larger "
        "learning rate that it bears."
    ),
    literature_verdict="holds, through the larger rate",
    plainly=(
        "Training is a walk downhill, and the loss says how high up one still is. The question is how many steps it "
        "takes to come down to a fixed height, and how much time, if every network may walk at the pace that suits "
        "it best."
    ),
    hypothesis="With batch norm it takes at least a fifth fewer steps, and a fifth less time, than without norm.",
    control=(
        "The same network without norm, from He's initial weights, and with layer norm; each at its own best rate. And "
        "truenorm's batch norm (bn-pooled): trained alike, other stored averages."
    ),
    measure=(
        f"Steps and processor time until the loss on test images, in evaluation mode, is {TARGET:.0%} of what "
        f"guessing gives ({TARGETS['digits']:.0%} on digits, which are easy); batches of {BATCH}, constant rate "
        "after a warm-up over the first tenth, SGD "
        "with momentum 0.9. Rates by factors of two, the best on validation images."
    ),
    arms={
        **{arm: ARMS[arm] for arm in ("none", "bn")},
        "bn-pooled": "batch norm with truenorm's running statistics",
        "ln": ARMS["ln"],
    },
    parts=tuple(
        Part(
            name=f"{metric} ({network})",
            says=f"{metric} to the target loss, none ÷ batch norm, {network}",
            effect=_saved(metric, network),
            margin=math.log(1.25),
            unit="factor",
        )
        for network in NETWORKS
        for metric in ("steps", "seconds")
    ),
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

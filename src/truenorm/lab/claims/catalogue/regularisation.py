"""Regularisation."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from truenorm.lab.claims.claim import Cell, Claim, Column, Part, Picture, Rows, grid
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.effects import difference
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.ghost import Accompanied, GhostBatchNorm
from truenorm.lab.claims.networks import NORMS, dense, initialised
from truenorm.lab.claims.training import first, recipe
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import Feed
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.networks.norms import BatchNorm, NormLayer
from truenorm.lab.study.training import Training, predict
from truenorm.model.measure import measure
from truenorm.model.statistics import using

TRAINED_ON, BATCH = 1024, 256
"""Images: so few that a network can learn them by heart."""

IMAGES = 60_000
"""Shown in each training, at most."""

SCORED = 1000
"""Images that are scored, at most."""

MATCHED = 0.05
"""The training loss at which networks are compared, in nats."""

RATES = (2.0**-7, 2.0**-5, 2.0**-3)
GHOSTS = (4, 8, 16, 32, 64, 256)
DROPOUTS = (0.1, 0.3)


def cells(context: ClaimsContext) -> list[Cell]:
    epochs = _epochs(context)
    left_out = ("dropout-0.3", "ghost-4", "ghost-16", "ghost-64") if context.quick else ()
    arms = [arm for arm in CLAIM.arms if arm not in left_out]
    return grid(arms, lrs=RATES, steps=epochs * TRAINED_ON // BATCH)


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: _network(trial.arm, context), trial.seed)
    feed = first(context.feed("train", BATCH), TRAINED_ON)
    whole = feed.resized(len(feed.split))
    ((images, _),) = whole
    scored = first(context.feed("validation" if trial.tuning else "test", SCORED), SCORED)
    accompanied = Accompanied(network, images) if trial.arm == "bn-all" else network
    training = Training(accompanied, feed, recipe(trial, epochs=_epochs(context), schedule="constant"))
    before: tuple[float, float, float] | None = None
    for _ in range(_epochs(context)):
        training.run_epoch(on_step)
        now = _losses(trial.arm, network, context, whole, scored)
        if now[0] <= MATCHED:
            nll, accuracy = _between(before or now, now)
            if trial.tuning:
                yield trial.row("score", -nll)
            else:
                yield trial.row("nll", math.log(nll))
                yield trial.row("accuracy", accuracy, n=len(scored.split))
                yield trial.row("epochs", training.epoch)
            return
        before = now


def _epochs(context: ClaimsContext) -> int:
    return max(1, (IMAGES * 2 // 3 if context.quick else IMAGES) // TRAINED_ON)


def _network(arm: str, context: ClaimsContext) -> nn.Module:
    kind, _, value = arm.partition("-")
    if kind == "ghost":
        return dense(context, lambda channels: GhostBatchNorm(channels, size=int(value)))
    if kind == "dropout":
        return dense(context, _with_dropout(float(value)))
    return dense(context, BatchNorm if arm == "bn-all" else NORMS[arm])


def _with_dropout(share: float) -> NormLayer:
    """No norm; dropout before the activation, which for a ReLU is the same as after it."""
    return lambda channels: nn.Sequential(NORMS["none"](channels), nn.Dropout(share))


def _losses(
    arm: str, network: nn.Module, context: ClaimsContext, whole: Feed, scored: Feed
) -> tuple[float, float, float]:
    """Loss on the training images, loss and accuracy on others; batch norm with the statistics of all training images.

    Running statistics would bring in what batches missed: here the question is what the weights have learned.
    """
    if arm.startswith(("ghost", "bn")):
        plain = dense(context, BatchNorm)
        plain.load_state_dict(network.state_dict())
        with using(plain, measure(plain, whole)):
            return _scores(plain, whole, scored)
    return _scores(network, whole, scored)


def _scores(network: nn.Module, whole: Feed, scored: Feed) -> tuple[float, float, float]:
    outputs, labels = predict(network, scored), scored.split.labels
    training_loss = F.cross_entropy(predict(network, whole), whole.split.labels).item()
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return training_loss, F.cross_entropy(outputs, labels).item(), accuracy


def _between(before: tuple[float, float, float], now: tuple[float, float, float]) -> tuple[float, float]:
    """Loss and accuracy on other images where the training loss passed `MATCHED`, between two epochs' logarithms."""
    if before[0] <= now[0]:
        return now[1], now[2]
    past = math.log(before[0] / MATCHED) / math.log(before[0] / now[0])
    return math.exp(math.log(before[1]) * (1 - past) + math.log(now[1]) * past), torch.lerp(
        torch.tensor(before[2]), torch.tensor(now[2]), past
    ).item()


def _dose(evidence: Evidence) -> Mapping[int, float]:
    """Seed → how much the logarithm of the loss rises with each doubling of the batch, by least squares."""
    by_size = {size: losses for size in GHOSTS if (losses := evidence.by_seed("nll", f"ghost-{size}"))}
    if len(by_size) < 3:
        return {}
    centre = sum(math.log2(size) for size in by_size) / len(by_size)
    x = {size: math.log2(size) - centre for size in by_size}
    spread = sum(value**2 for value in x.values())
    seeds = set[int].intersection(*(set(losses) for losses in by_size.values()))
    return {seed: sum(x[size] * by_size[size][seed] for size in x) / spread for seed in sorted(seeds)}


CLAIM = Claim(
    number=3,
    name="regularises",
    title="Batch norm regularises",
    sentence="""Each batch has slightly other statistics; this noise regularises, so that a network with batch norm does
        better on data it has not seen.""",
    sources=("Ioffe & Szegedy 2015", "all four tutorials", "the dissertation's abstract"),
    literature="""Supported: batch norm acts as normalization by the population and a decay of γ (Luo et al. 2019);
        ghost batches regularise (Hoffer et al. 2017, Summers & Dinneen 2020); the batch size alone sets the noise (Yong
        et al. 2020).""",
    literature_verdict="holds; the more, the smaller the batch",
    plainly="""A network can learn its training images by heart and be poor at others. Noise while it trains can keep it
        from that. The question is whether networks that know the training images equally well do better on other images
        where batch norm's noise was larger.""",
    hypothesis="""At the same training loss, the loss on test images is at least 5 % lower with statistics of 32 images
        than with those of all images, and than without norm; and with every halving of the batch it falls by 2 % or
        more.""",
    control="""Batch norm with hardly any noise: statistics of all training images at every step (those of the batch
        count twice, which leaves a fifth of the noise of a batch of 256). The same network without norm, and that with
        dropout as a yardstick. The optimizer's batch is 256 for all; only the batch of the statistics differs.""",
    measure=f"""{TRAINED_ON} training images, constant rate after a warm-up; loss on test images where the training loss
        passes {MATCHED} nats, both in evaluation mode with the statistics of all training images. Rates by factors of
        four, the best on validation images.""",
    arms={
        "none": "no norm, only biases",
        **{f"dropout-{share:g}": f"no norm, {share:.0%} dropout" for share in DROPOUTS},
        "bn-all": "batch norm, statistics of all training images at every step",
        **{f"ghost-{size}": f"batch norm, statistics of {size} images" for size in reversed(GHOSTS)},
    },
    parts=(
        Part(
            name="32 images against all",
            says="test loss at equal training loss: statistics of all images ÷ of 32",
            effect=difference("nll", "bn-all", "ghost-32"),
            margin=math.log(1.05),
            unit="factor",
        ),
        Part(
            name="each halving of the batch",
            says="test loss at equal training loss: × with each doubling of the batch",
            effect=_dose,
            margin=math.log(1.02),
            unit="factor",
        ),
        Part(
            name="32 images against no norm",
            says="test loss at equal training loss: no norm ÷ statistics of 32 images",
            effect=difference("nll", "none", "ghost-32"),
            margin=math.log(1.05),
            unit="factor",
        ),
    ),
    primary="32 images against all",
    why_primary="""The sentence names the noise of a batch's statistics as the cause, so that the comparison is noise
        against none, at the usual batch of 32.""",
    columns=(
        Column(metric="nll", heading="test NLL", unit="factor"),
        Column(metric="accuracy", heading="accuracy %", unit="points", digits=2),
        Column(metric="epochs", heading="epochs"),
    ),
    picture=Picture(
        metric="nll",
        y="test loss at equal training loss",
        unit="factor",
        log_y=True,
        text="""All networks know their training images equally well; the further to the left, the better they do on
            other images.""",
    ),
    cells=cells,
    run=run,
)

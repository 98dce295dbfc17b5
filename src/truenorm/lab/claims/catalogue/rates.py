"""Higher learning rates."""

import math
from collections.abc import Callable, Mapping

from truenorm.errors import Diverged
from truenorm.lab.claims.accuracy import ACCURACY, accuracy_picture
from truenorm.lab.claims.claim import Cell, Claim, Effect, Part, Rows
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.networks import ARMS, NORMS, dense, initialised
from truenorm.lab.claims.training import scored, trained
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep

IMAGES = 12_000
"""Shown in each training."""

BATCHES = (16, 256)
COMPARED = ("none", "bn", "ln")

ENOUGH = 0.9
"""A network trains if it comes to so much of the best accuracy that any network has at any rate, same seed."""


def cells(context: ClaimsContext) -> list[Cell]:
    return [
        Cell(
            arm=arm,
            where={"batch_size": batch_size, "rate": rate},
            lrs=(rate,),
            steps=context.steps(IMAGES, batch_size),
        )
        for batch_size in BATCHES
        for arm in COMPARED
        for rate in context.rates(-9, 5)
    ]


def run(trial: ClaimTrial, context: ClaimsContext, on_step: OnStep) -> Rows:
    network = initialised(lambda: dense(context, NORMS[trial.arm]), trial.seed)
    feed = context.feed("train", trial.where["batch_size"])
    try:
        trained(network, feed, trial, on_step, epochs=context.epochs(IMAGES), schedule="constant")
        yield from trial.scores(scored(network, context, "test"), "accuracy", "nll")
    except Diverged:  # which is what was asked: this rate is too high
        yield trial.row("accuracy", 1 / context.num_classes)
        yield trial.row("nll", math.log(context.num_classes))


def largest(evidence: Evidence, arm: str, batch_size: int) -> dict[int, float]:
    """Seed → logarithm of the largest rate at which the arm still trains; of one that never does, none."""
    best: dict[int, float] = {}
    for each in COMPARED:
        for seed, accuracies in _ladder(evidence, "accuracy", each, batch_size).items():
            best[seed] = max(best.get(seed, 0.0), *accuracies.values())
    return {
        seed: math.log(max(rates))
        for seed, accuracies in _ladder(evidence, "accuracy", arm, batch_size).items()
        if (rates := [rate for rate, accuracy in accuracies.items() if accuracy >= ENOUGH * best[seed]])
    }


def best(evidence: Evidence, arm: str, batch_size: int) -> dict[int, float]:
    """Seed → logarithm of the rate with the least loss on test images."""
    by_rate = _ladder(evidence, "nll", arm, batch_size)
    return {seed: math.log(min(losses, key=lambda rate: losses[rate])) for seed, losses in by_rate.items()}


def _ladder(evidence: Evidence, metric: str, arm: str, batch_size: int) -> dict[int, dict[float, float]]:
    """Seed → rate → value."""
    ladders: dict[int, dict[float, float]] = {}
    for where in evidence.places(arm):
        if where["batch_size"] == batch_size:
            for seed, value in evidence.by_seed(metric, arm, **where).items():
                ladders.setdefault(seed, {})[where["rate"]] = value
    return ladders


def _over_none(rate: Callable[[Evidence, str, int], dict[int, float]], batch_size: int) -> Effect:
    def effect(evidence: Evidence) -> Mapping[int, float]:
        bn, none = rate(evidence, "bn", batch_size), rate(evidence, "none", batch_size)
        tried = [_ladder(evidence, "nll", arm, batch_size) for arm in ("bn", "none")]
        whole = {seed for seed in tried[0] if tried[0][seed].keys() == tried[1].get(seed, {}).keys()}
        return {seed: bn[seed] - none[seed] for seed in bn if seed in none and seed in whole}

    return effect


CLAIM = Claim(
    number=2,
    name="higher-rates",
    title="Batch norm allows higher learning rates",
    sentence="With batch normalization one can use much higher learning rates without the risk of divergence.",
    sources=("Ioffe & Szegedy 2015", "all four tutorials", "the dissertation's abstract"),
    literature="""Supported (Bjorck et al. 2018); De & Smith 2020: it helps at large batches only, at small ones the
        best rates are the same with and without.""",
    literature_verdict="depends: large batches",
    plainly="""The learning rate is how far the network moves its weights at each step. A larger one learns in fewer
        steps, until it is so large that training falls apart.""",
    hypothesis="""The largest rate at which the network still trains, and the best rate, are at least twice as high with
        batch norm.""",
    control="The same network without norm (He's initial weights, which are right for it), and with layer norm.",
    measure=f"""Every rate of a grid by factors of two, constant after a warm-up over the first tenth, SGD with momentum
        0.9. A network trains at a rate if it comes to {ENOUGH:.0%} of the best accuracy of any network at any rate; the
        best rate has the least test loss.""",
    arms={arm: ARMS[arm] for arm in COMPARED},
    parts=tuple(
        Part(
            name=f"the {name} rate at batch {batch_size}",
            says=f"{name} rate, batch norm ÷ none, batch {batch_size}",
            effect=_over_none(rate, batch_size),
            margin=math.log(2),
            unit="factor",
            resolution=math.log(2),
        )
        for name, rate in (("largest", largest), ("best", best))
        for batch_size in BATCHES
    ),
    primary="the largest rate at batch 16",
    why_primary="""To allow a rate is to train at it, so the largest and not the best; of the two batch sizes 16 is
        nearer to the 32 that are usual.""",
    columns=(ACCURACY,),
    picture=accuracy_picture(
        x="rate",
        x_title="learning rate",
        log_x=True,
        panels="batch_size",
        text="Each curve is one kind of norm. The further to the right it stays up, the higher the rates it bears.",
    ),
    cells=cells,
    run=run,
)

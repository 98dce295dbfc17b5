"""One trial: train a network, have its statistics in every way asked for, and measure what each gives."""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from torch import nn

from truenorm.errors import Diverged, InvalidRecord, NotFinite
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.jobs.store import RunningTrial
from truenorm.lab.study.arms import Trained, rules_for, sequential
from truenorm.lab.study.configuration import BASELINE, StudyTrial
from truenorm.lab.study.context import StudyContext
from truenorm.lab.study.training import Recipe, Training, precision, predict
from truenorm.metrics.classification import scores
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.model.watch import Watch, watch
from truenorm.record import ClassCounts, Measured, Measurement
from truenorm.rules import Static
from truenorm.stats.shift import estimation_shift
from truenorm.stats.statistics import Statistics

ARRIVING = 10_000
"""Images over which the residual in the eval flow is measured, at most."""

LOOKS, LOOK_AT = 10, 2048
"""Shift is followed through training at so many ends of epochs, each against so many images, at most."""


def measure_trial(
    trial: StudyTrial, context: StudyContext, running: RunningTrial, on_step: OnStep
) -> Iterator[Measured]:
    """Train and measure; every row and confusion matrix of the trial.

    A training that was interrupted continues from its last epoch.

    Raises:
        Diverged: the loss, or what follows from the trained weights, is not finite.
    """
    try:
        yield from _rows(trial, context, running, on_step)
    except (NotFinite, InvalidRecord) as error:  # the loss was finite to the end
        raise Diverged(f"after training, {str(error).partition(';')[0]}; try a smaller --lr") from error


def _rows(trial: StudyTrial, context: StudyContext, running: RunningTrial, on_step: OnStep) -> Iterator[Measured]:
    network, feed = context.network(trial), context.feed("train", trial.setting.batch_size)
    if trial.norm == "bn" and not trial.tuning:
        yield from _same_weights(trial, context, network, feed, running, on_step)
        return
    training = Training(network, feed, recipe(trial))
    if running.saved is not None:
        training.load_state_dict(running.saved["training"])
    while training.epoch < trial.setting.study.epochs:
        training.run_epoch(on_step)
        running.keep({"training": training.state_dict()})
    if trial.tuning:
        outputs = predict(network, context.feed("validation", EVALUATION_BATCH))
        accuracy = scores(outputs, context.images.validation.labels.cpu()).accuracy
        yield Measurement(trial.id, trial.norm, None, "validation_accuracy", accuracy)
        return
    yield from _losses(trial, training)
    if trial.norm == "gn":
        yield from _outcome(trial, context, network, trial.norm)
        return
    with precision(context.device):
        populations = {"joint": measure(network, feed), "sequential": sequential(network, feed)}
        references = _references(trial, context, network, populations)
        yield from _arm(trial, context, network, trial.norm, statistics(network), references)


def recipe(trial: StudyTrial) -> Recipe:
    """How the trial trains."""
    assert trial.lr is not None
    study = trial.setting.study
    return Recipe(
        epochs=study.epochs,
        lr=trial.lr,
        optimizer=study.optimizer,
        schedule=trial.setting.schedule,
        weight_decay=study.weight_decay,
        seed=trial.seed,
        augment=study.augment,
    )


def looks(epochs: int) -> tuple[int, ...]:
    """The epochs, counted from 1, after which shift is looked at: the last, and others spread evenly.

    Example:
        >>> looks(3), looks(30)
        ((1, 2, 3), (3, 6, 9, 12, 15, 18, 21, 24, 27, 30))
    """
    num = min(epochs, LOOKS)
    return tuple(-(-epochs * k // num) for k in range(1, num + 1))


def _same_weights(
    trial: StudyTrial, context: StudyContext, network: nn.Module, feed: Feed, running: RunningTrial, on_step: OnStep
) -> Iterator[Measured]:
    switching = any(arm.name == "dmbn-switch" for arm in context.arms)
    epochs = trial.setting.study.epochs
    training = Training(network, feed, recipe(trial))
    seen: list[tuple[int, str, float]] = []
    saved = running.saved
    if saved is not None:
        training.load_state_dict(saved["training"])
        seen = [(epoch, name, shift) for epoch, name, shift in saved["seen"]]
    with watch(network, rules_for(context.arms, context.momenta)) as watched:
        if saved is not None:
            watched.load_state_dict(saved["watched"])
        while training.epoch < epochs:
            training.run_epoch(on_step)
            watched.end_epoch()
            with precision(context.device):
                if switching:
                    watched.switch("dmbn-switch", watched.best(measure(network, feed)).momenta)
                if training.epoch in looks(epochs):
                    population = measure(network, feed, limit=LOOK_AT)
                    trained = Trained(network, watched, feed)
                    seen += [(training.epoch, *found) for found in _shift_by_arm(trained, context, population)]
            running.keep({"training": training.state_dict(), "watched": watched.state_dict(), "seen": seen})
    yield from _losses(trial, training)
    yield from (Measurement(trial.id, name, None, f"shift.joint@{epoch}", shift) for epoch, name, shift in seen)
    with precision(context.device):
        trained = Trained(network, watched, feed)
        references = _references(trial, context, network, {"joint": trained.joint, "sequential": trained.sequential})
        for arm in context.arms:
            yield from _arm(trial, context, network, arm.name, arm.statistics(trained), references)
        yield from _rest_of_the_sweep(trial, context, watched, references["joint"])


def _losses(trial: StudyTrial, training: Training) -> Iterator[Measurement]:
    """The training loss: at the end, and after each epoch."""
    yield Measurement(trial.id, trial.norm, None, "training_loss", training.losses[-1])
    for epoch, loss in enumerate(training.losses, 1):
        yield Measurement(trial.id, trial.norm, None, f"training_loss@{epoch}", loss)


def _shift_by_arm(trained: Trained, context: StudyContext, population: Statistics) -> Iterator[tuple[str, float]]:
    """Mean shift over layers, of torch's momentum, of what the run itself keeps, and of the best momenta now."""
    for arm in context.arms:
        if arm.name == "dmbn":
            stats = trained.watched.best(population)
        elif arm.name == f"static-{BASELINE:g}" or (arm.needs != "pass" and not arm.name.startswith("static-")):
            stats = arm.statistics(trained)
        else:
            continue
        yield arm.name, fmean(layer.shift for layer in estimation_shift(stats, population).layers)


def _rest_of_the_sweep(
    trial: StudyTrial, context: StudyContext, watched: Watch, joint: Statistics
) -> Iterator[Measurement]:
    """How far each momentum that is no arm of its own ends from the population: no forward is needed for that."""
    asked = {arm.name for arm in context.arms}
    for name in Static(context.momenta).names:
        if name not in asked:
            for layer in estimation_shift(watched[name], joint).layers:
                n = joint[layer.layer].count
                yield Measurement(trial.id, name, layer.layer, "shift.joint", layer.shift, layer.noise_floor, n)


def _arm(
    trial: StudyTrial,
    context: StudyContext,
    network: nn.Module,
    name: str,
    stats: Statistics,
    references: dict[str, Statistics],
) -> Iterator[Measured]:
    """What these statistics give on test images, and how far they are from each reference."""
    for layer, moments in stats.items():
        if not bool((moments.mean + moments.var).float().isfinite().all()):
            raise Diverged(f"the statistics of arm {name!r} are not finite in layer {layer!r}; try a smaller --lr")
    part = "train" if trial.setting.study.reference == "training" else "test"
    with using(network, stats):
        yield from _outcome(trial, context, network, name)
        arriving = measure(network, context.feed(part, EVALUATION_BATCH), flow="eval", limit=ARRIVING)
    for reference, population in (references | {"arriving": arriving}).items():
        for layer in estimation_shift(stats, population).layers:
            n = population[layer.layer].count
            yield Measurement(trial.id, name, layer.layer, f"shift.{reference}", layer.shift, layer.noise_floor, n)
            if reference == "joint":
                yield Measurement(trial.id, name, layer.layer, "esm_mean.joint", layer.esm_mean, None, n)
                yield Measurement(trial.id, name, layer.layer, "esm_var.joint", layer.esm_var, None, n)
    for layer_name, momentum in stats.momenta.items():
        yield Measurement(trial.id, name, layer_name, "momentum", momentum)


def _outcome(trial: StudyTrial, context: StudyContext, network: nn.Module, name: str) -> Iterator[Measured]:
    found = scores(predict(network, context.feed("test", EVALUATION_BATCH)), context.images.test.labels.cpu())
    for metric in ("accuracy", "sensitivity", "specificity", "f_score", "nll"):
        if (value := getattr(found, metric)) is not None:
            yield Measurement(trial.id, name, None, metric, value, None, found.num)
    yield ClassCounts(trial.id, name, found.confusion.counts)


def _references(
    trial: StudyTrial, context: StudyContext, network: nn.Module, training: dict[str, Statistics]
) -> dict[str, Statistics]:
    if trial.setting.study.reference == "training":
        return training
    # A last batch of one image has no batch statistics: left out here, as in training.
    feed = replace(context.feed("test", trial.setting.batch_size), drop_single=True)
    return {"joint": measure(network, feed), "sequential": sequential(network, feed)}

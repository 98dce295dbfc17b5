"""One trial: train a network, have its statistics in every way asked for, and measure what each gives."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean

from torch import nn

from truenorm.errors import Diverged
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed
from truenorm.lab.study.arms import Trained, rules_for, sequential
from truenorm.lab.study.bench import Bench
from truenorm.lab.study.configuration import BASELINE, Trial
from truenorm.lab.study.store import UnderWay
from truenorm.lab.study.training import Recipe, Training, precision, predict
from truenorm.metrics.classification import scores
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.model.watch import Watch, watch
from truenorm.record import Measurement
from truenorm.rules import Static
from truenorm.stats.shift import estimation_shift
from truenorm.stats.statistics import Statistics

ARRIVING = 10_000
"""Images over which the residual in the eval flow is measured, at most."""

LOOKS, LOOK_AT = 10, 2048
"""Shift is followed through training at so many ends of epochs, each against so many images, at most."""


def run(trial: Trial, bench: Bench, under_way: UnderWay, on_step: Callable[[], None]) -> Iterator[Measurement]:
    """Train and measure; every row of the trial. A training that was broken off goes on from its last epoch.

    Raises:
        Diverged: the training left the finite numbers.
    """
    network, feed = bench.network(trial), bench.feed("train", trial.setting.batch_size)
    if trial.norm == "bn" and not trial.tuning:
        yield from _same_weights(trial, bench, network, feed, under_way, on_step)
        return
    training = Training(network, feed, recipe(trial))
    if under_way.saved is not None:
        training.load_state_dict(under_way.saved["training"])
    while training.epoch < trial.setting.study.epochs:
        training.run_epoch(on_step)
        under_way.keep({"training": training.state_dict()})
    if trial.tuning:
        outputs = predict(network, bench.feed("validation", EVALUATION_BATCH))
        accuracy = scores(outputs, bench.images.validation.labels.cpu()).accuracy
        yield Measurement(trial.id, trial.norm, None, "validation_accuracy", accuracy)
        return
    yield from _losses(trial, training)
    if trial.norm == "gn":
        yield from _outcome(trial, bench, network, trial.norm)
        return
    with precision(bench.device):
        populations = {"joint": measure(network, feed), "sequential": sequential(network, feed)}
        references = _references(trial, bench, network, populations)
        yield from _arm(trial, bench, network, trial.norm, statistics(network), references)


def recipe(trial: Trial) -> Recipe:
    """How the trial trains."""
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
    trial: Trial, bench: Bench, network: nn.Module, feed: Feed, under_way: UnderWay, on_step: Callable[[], None]
) -> Iterator[Measurement]:
    switching = any(arm.name == "dmbn-switch" for arm in bench.arms)
    epochs = trial.setting.study.epochs
    training = Training(network, feed, recipe(trial))
    seen: list[tuple[int, str, float]] = []
    saved = under_way.saved
    if saved is not None:
        training.load_state_dict(saved["training"])
        seen = [(epoch, name, shift) for epoch, name, shift in saved["seen"]]
    with watch(network, rules_for(bench.arms, bench.momenta)) as watched:
        if saved is not None:
            watched.load_state_dict(saved["watched"])
        while training.epoch < epochs:
            training.run_epoch(on_step)
            watched.end_epoch()
            with precision(bench.device):
                if switching:
                    watched.switch("dmbn-switch", watched.best(measure(network, feed)).momenta)
                if training.epoch in looks(epochs):
                    population = measure(network, feed, limit=LOOK_AT)
                    seen += [(training.epoch, *found) for found in _shift_by_arm(watched, bench, population)]
            under_way.keep({"training": training.state_dict(), "watched": watched.state_dict(), "seen": seen})
    yield from _losses(trial, training)
    yield from (Measurement(trial.id, name, None, f"shift.joint@{epoch}", shift) for epoch, name, shift in seen)
    with precision(bench.device):
        trained = Trained(network, watched, feed)
        references = _references(trial, bench, network, {"joint": trained.joint, "sequential": trained.sequential})
        for arm in bench.arms:
            yield from _arm(trial, bench, network, arm.name, arm.statistics(trained), references)
        yield from _rest_of_the_sweep(trial, bench, watched, references["joint"])


def _losses(trial: Trial, training: Training) -> Iterator[Measurement]:
    """The training loss: at the end, and after each epoch."""
    yield Measurement(trial.id, trial.norm, None, "training_loss", training.losses[-1])
    for epoch, loss in enumerate(training.losses, 1):
        yield Measurement(trial.id, trial.norm, None, f"training_loss@{epoch}", loss)


def _shift_by_arm(watched: Watch, bench: Bench, population: Statistics) -> Iterator[tuple[str, float]]:
    """Mean shift over layers, of torch's momentum, of what the run itself keeps, and of the best momenta now."""
    for arm in bench.arms:
        if arm.name == "dmbn":
            stats = watched.best(population)
        elif arm.name == f"static-{BASELINE:g}" or (arm.needs != "pass" and not arm.name.startswith("static-")):
            stats = watched[arm.name]
        else:
            continue
        yield arm.name, fmean(layer.shift for layer in estimation_shift(stats, population).layers)


def _rest_of_the_sweep(trial: Trial, bench: Bench, watched: Watch, joint: Statistics) -> Iterator[Measurement]:
    """How far each momentum that is no arm of its own ends from the population: no forward is needed for that."""
    asked = {arm.name for arm in bench.arms}
    for name in Static(bench.momenta).names:
        if name not in asked:
            for layer in estimation_shift(watched[name], joint).layers:
                n = joint[layer.layer].count
                yield Measurement(trial.id, name, layer.layer, "shift.joint", layer.shift, layer.noise_floor, n)


def _arm(
    trial: Trial, bench: Bench, network: nn.Module, name: str, stats: Statistics, references: dict[str, Statistics]
) -> Iterator[Measurement]:
    """What these statistics give on test images, and how far they are from each reference."""
    for layer, moments in stats.items():
        if not bool((moments.mean + moments.var).float().isfinite().all()):
            raise Diverged(f"the statistics of arm {name!r} are not finite in layer {layer!r}; try a smaller --lr")
    part = "train" if trial.setting.study.reference == "training" else "test"
    with using(network, stats):
        yield from _outcome(trial, bench, network, name)
        arriving = measure(network, bench.feed(part, EVALUATION_BATCH), flow="eval", limit=ARRIVING)
    for reference, population in (references | {"arriving": arriving}).items():
        for layer in estimation_shift(stats, population).layers:
            n = population[layer.layer].count
            yield Measurement(trial.id, name, layer.layer, f"shift.{reference}", layer.shift, layer.noise_floor, n)
            if reference == "joint":
                yield Measurement(trial.id, name, layer.layer, "esm_mean.joint", layer.esm_mean, None, n)
                yield Measurement(trial.id, name, layer.layer, "esm_var.joint", layer.esm_var, None, n)
    for layer_name, momentum in stats.momenta.items():
        yield Measurement(trial.id, name, layer_name, "momentum", momentum)


def _outcome(trial: Trial, bench: Bench, network: nn.Module, name: str) -> Iterator[Measurement]:
    found = scores(predict(network, bench.feed("test", EVALUATION_BATCH)), bench.images.test.labels.cpu())
    for metric in ("accuracy", "sensitivity", "specificity", "f_score", "nll"):
        yield Measurement(trial.id, name, None, metric, getattr(found, metric), None, found.num)


def _references(
    trial: Trial, bench: Bench, network: nn.Module, training: dict[str, Statistics]
) -> dict[str, Statistics]:
    if trial.setting.study.reference == "training":
        return training
    # A last batch of one image has no batch statistics: left out here, as in training.
    feed = replace(bench.feed("test", trial.setting.batch_size), drop_single=True)
    return {"joint": measure(network, feed), "sequential": sequential(network, feed)}

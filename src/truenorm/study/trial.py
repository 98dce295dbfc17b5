"""One trial: train a network, have its statistics in every way asked for, and measure what each gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from truenorm.data.feed import EVALUATION_BATCH, Feed, Scale
from truenorm.data.images import ImageSet, Split
from truenorm.metrics.classification import scores
from truenorm.model.measure import measure
from truenorm.model.statistics import statistics, using
from truenorm.model.watch import watch
from truenorm.record import Measurement
from truenorm.stats.shift import estimation_shift
from truenorm.stats.statistics import Statistics
from truenorm.study.arms import Arm, Trained, rules_for, sequential
from truenorm.study.configuration import Trial
from truenorm.study.networks import NormLayer
from truenorm.study.norms import norm_layer
from truenorm.study.training import Recipe, predict, train

ARRIVING = 10_000
"""Images over which the residual in the eval flow is measured, at most."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a study share: the images, how a network is made, the arms.

    Args:
        images: the data set.
        make: a `norm_layer` → a network.
        arms: those on the same weights.
        momenta: the sweep.
        device: where to train.
    """

    images: ImageSet
    make: Callable[[NormLayer], nn.Module]
    arms: tuple[Arm, ...]
    momenta: tuple[float, ...]
    device: torch.device

    def feed(self, part: Literal["train", "validation", "test"], batch_size: int) -> Feed:
        """The batches of a part, in its own order; of the training part as training takes them."""
        split: Split = getattr(self.images, part)
        here = Split(split.images.to(self.device), split.labels.to(self.device))
        return Feed(here, Scale.of(self.images.train.images), batch_size, drop_single=part == "train")

    def network(self, trial: Trial) -> nn.Module:
        """A network with the initial weights of the trial's seed; the global random state stays."""
        with torch.random.fork_rng():
            torch.manual_seed(trial.seed)
            return self.make(norm_layer(trial.norm, bfn=trial.study.bfn)).to(self.device)


def run(trial: Trial, bench: Bench, on_step: Callable[[], None]) -> Iterator[Measurement]:
    """Train and measure; every row of the trial.

    Raises:
        Diverged: the training left the finite numbers.
    """
    network, feed = bench.network(trial), bench.feed("train", trial.study.batch_size)
    if trial.norm == "bn":
        yield from _same_weights(trial, bench, network, feed, on_step)
        return
    losses = train(network, feed, recipe(trial), on_step=on_step)
    yield Measurement(trial.id, trial.norm, None, "training_loss", losses[-1])
    if trial.norm == "gn":
        yield from _outcome(trial, bench, network, trial.norm)
        return
    populations = {"joint": measure(network, feed), "sequential": sequential(network, feed)}
    yield from _arm(
        trial, bench, network, trial.norm, statistics(network), _references(trial, bench, network, populations)
    )


def validation_accuracy(trial: Trial, bench: Bench, on_step: Callable[[], None]) -> float:
    """Accuracy on the validation images of the trained network, with the statistics that torch keeps."""
    network, feed = bench.network(trial), bench.feed("train", trial.study.batch_size)
    train(network, feed, recipe(trial), on_step=on_step)
    return scores(predict(network, bench.feed("validation", EVALUATION_BATCH)), bench.images.validation.labels).accuracy


def recipe(trial: Trial) -> Recipe:
    """How the trial trains."""
    study = trial.study
    return Recipe(
        epochs=study.epochs,
        lr=trial.lr,
        optimizer=study.optimizer,
        schedule=study.schedule,
        weight_decay=study.weight_decay,
        seed=trial.seed,
    )


def _same_weights(
    trial: Trial, bench: Bench, network: nn.Module, feed: Feed, on_step: Callable[[], None]
) -> Iterator[Measurement]:
    switching = any(arm.name == "dmbn-switch" for arm in bench.arms)
    with watch(network, rules_for(bench.arms, bench.momenta)) as watched:

        def end_epoch(epoch: int) -> None:
            watched.end_epoch()
            if switching:
                watched.switch("dmbn-switch", watched.best(measure(network, feed)).momenta)

        losses = train(network, feed, recipe(trial), on_step=on_step, on_epoch=end_epoch)
    yield Measurement(trial.id, "bn", None, "training_loss", losses[-1])
    trained = Trained(network, watched, feed)
    references = _references(trial, bench, network, {"joint": trained.joint, "sequential": trained.sequential})
    for arm in bench.arms:
        yield from _arm(trial, bench, network, arm.name, arm.statistics(trained), references)


def _arm(
    trial: Trial, bench: Bench, network: nn.Module, name: str, stats: Statistics, references: dict[str, Statistics]
) -> Iterator[Measurement]:
    """What these statistics give on test images, and how far they are from each reference."""
    part = "train" if trial.study.reference == "training" else "test"
    with using(network, stats):
        yield from _outcome(trial, bench, network, name)
        arriving = measure(network, bench.feed(part, EVALUATION_BATCH), flow="eval", limit=ARRIVING)
    for reference, population in (references | {"arriving": arriving}).items():
        for layer in estimation_shift(stats, population).layers:
            n = population[layer.layer].count
            yield Measurement(trial.id, name, layer.layer, f"shift.{reference}", layer.shift, layer.noise_floor, n)
            yield Measurement(trial.id, name, layer.layer, f"esm_mean.{reference}", layer.esm_mean, None, n)
            yield Measurement(trial.id, name, layer.layer, f"esm_var.{reference}", layer.esm_var, None, n)
    for layer_name, momentum in stats.momenta.items():
        yield Measurement(trial.id, name, layer_name, "momentum", momentum)


def _outcome(trial: Trial, bench: Bench, network: nn.Module, name: str) -> Iterator[Measurement]:
    found = scores(predict(network, bench.feed("test", EVALUATION_BATCH)), bench.images.test.labels)
    for metric in ("accuracy", "sensitivity", "specificity", "f_score", "nll"):
        yield Measurement(trial.id, name, None, metric, getattr(found, metric), None, found.num)


def _references(
    trial: Trial, bench: Bench, network: nn.Module, training: dict[str, Statistics]
) -> dict[str, Statistics]:
    if trial.study.reference == "training":
        return training
    # A last batch of one image has no batch statistics: left out here, as in training.
    feed = replace(bench.feed("test", trial.study.batch_size), drop_single=True)
    return {"joint": measure(network, feed), "sequential": sequential(network, feed)}

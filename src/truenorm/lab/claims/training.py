"""Training for a claim: the study's loop with the claim's budget, and what is asked of the network afterwards."""

import math
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.errors import Diverged
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.images.feed import EVALUATION_BATCH, Feed, Part
from truenorm.lab.images.sets import Split
from truenorm.lab.jobs.job import OnStep
from truenorm.lab.study.configuration import Schedule
from truenorm.lab.study.training import Recipe, predict, train
from truenorm.metrics.classification import Scores, scores


def recipe(trial: ClaimTrial, *, epochs: int, schedule: Schedule = "cosine") -> Recipe:
    """The trial's rate and seed, SGD with momentum 0.9, and nothing else that regularises."""
    assert trial.lr is not None
    return Recipe(epochs=epochs, lr=trial.lr, optimizer="sgd", schedule=schedule, weight_decay=0.0, seed=trial.seed)


def trained(
    network: nn.Module,
    feed: Feed,
    trial: ClaimTrial,
    on_step: OnStep,
    *,
    epochs: int,
    schedule: Schedule = "cosine",
) -> list[float]:
    """Train a network by the trial's recipe.

    Returns:
        the mean training loss of each epoch.

    Raises:
        Diverged: the loss is not finite.
    """
    return train(network, feed, recipe(trial, epochs=epochs, schedule=schedule), on_step=on_step)


def scored(network: nn.Module, context: ClaimsContext, part: Part) -> Scores:
    """What the network gives in evaluation mode on a part of the images.

    Raises:
        Diverged: what it gives is not finite.
    """
    feed = context.feed(part, EVALUATION_BATCH)
    return scores(predict(network, feed), feed.split.labels)


def first(feed: Feed, num: int) -> Feed:
    """The first so many images of a feed."""
    return replace(feed, split=Split(feed.split.images[:num], feed.split.labels[:num]))


def few_images(context: ClaimsContext, num: int, batch_size: int) -> Feed:
    """The batches of the first so many training images: few enough that networks learn them by heart."""
    return first(context.feed("train", batch_size), num)


def loss_on(network: nn.Module, feed: Feed) -> float:
    """The loss in evaluation mode; infinite where it is not finite."""
    try:
        return F.cross_entropy(predict(network, feed), feed.split.labels).item()
    except Diverged:
        return math.inf


def scored_in_batches(network: nn.Module, feed: Feed, order: Tensor | None = None) -> Scores:
    """What the network gives in training mode, batch by batch as it was trained.

    Of a network whose batch norm uses each batch's own statistics: how well running averages stand for them does not
    enter. The network's own averages stay. A last batch of one image is left out.

    Args:
        network: as it was trained.
        feed: images, and how many make a batch.
        order: in which they are taken; their own, unless given.

    Raises:
        Diverged: what it gives is not finite.
    """
    copy, feed = deepcopy(network).train(), replace(feed, drop_single=True)
    with torch.inference_mode():
        batches = [(copy(images), labels) for images, labels in (feed if order is None else feed.in_order(order))]
    logits = torch.cat([outputs for outputs, _ in batches])
    if not bool(logits.isfinite().all()):
        raise Diverged("what the trained network gives is not finite")
    return scores(logits, torch.cat([labels for _, labels in batches]))

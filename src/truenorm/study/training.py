"""The training loop. It knows nothing of statistics: they are gathered by whoever watches the network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from truenorm.data.feed import Feed
from truenorm.errors import Diverged

LOOK_EVERY = 50
"""Steps between two looks at the loss: each look makes a GPU wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train."""

    epochs: int
    lr: float
    optimizer: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "constant"]
    weight_decay: float
    seed: int


def train(
    network: nn.Module,
    feed: Feed,
    recipe: Recipe,
    *,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> list[float]:
    """Train with cross entropy; the network is left in training mode, the global random state as it was.

    Args:
        network: changed in place.
        feed: the training images; shuffled anew each epoch by the recipe's seed.
        recipe: optimizer, rates, epochs.
        on_step: called after each step.
        on_epoch: called after each epoch with its number, from 0; the network trains on after it.

    Returns:
        the mean training loss of each epoch.

    Raises:
        Diverged: the loss is not finite.
    """
    optimizer = _optimizer(network, recipe)
    scheduler = LambdaLR(optimizer, rate_factor(recipe.schedule, recipe.epochs * len(feed)))
    order = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    # What draws numbers on the way (dropout, say) draws the seed's, whatever ran before.
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for epoch in range(recipe.epochs):
            network.train()
            total = torch.zeros((), device=feed.split.labels.device)
            for step, (images, labels) in enumerate(feed.in_order(torch.randperm(len(feed.split), generator=order))):
                loss = F.cross_entropy(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                total += loss.detach()
                on_step()
                if step % LOOK_EVERY == 0:
                    _check(total, epoch, step, recipe)
            _check(total, epoch, len(feed), recipe)
            losses.append(total.item() / len(feed))
            on_epoch(epoch)
    return losses


def rate_factor(schedule: Literal["cosine", "constant"], num_steps: int) -> Callable[[int], float]:
    """What the rate is multiplied with at each step: a warm-up of a tenth, at most 100 steps, then the schedule.

    Example:
        >>> factor = rate_factor("cosine", 1000)
        >>> factor(0), factor(100), round(factor(550), 3), factor(1000)
        (0.01, 1.0, 0.5, 0.0)
    """
    warm_up = min(100, num_steps // 10)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        if schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up))) / 2

    return factor


def predict(network: nn.Module, feed: Feed) -> Tensor:
    """Logits in evaluation mode, of shape (images, classes), on the CPU; the network's mode stays.

    Raises:
        Diverged: they are not finite.
    """
    mode = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits = torch.cat([network(images) for images, _ in feed]).float().cpu()
    finally:
        network.train(mode)
    if not bool(logits.isfinite().all()):
        raise Diverged("what the trained network gives is not finite; try a smaller --lr")
    return logits


def _optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    if recipe.optimizer == "sgd":
        return SGD(network.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)


def _check(total: Tensor, epoch: int, step: int, recipe: Recipe) -> None:
    if not math.isfinite(total.item()):
        raise Diverged(
            f"training diverged in epoch {epoch + 1} by step {step}: the loss is {total.item()} at --lr {recipe.lr:g}; "
            "try a smaller rate"
        )

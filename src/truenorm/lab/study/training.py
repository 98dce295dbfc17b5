"""The training loop. It knows nothing of statistics: they are gathered by whoever watches the network."""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from truenorm.errors import Diverged
from truenorm.lab.images.augment import augment
from truenorm.lab.images.feed import Feed
from truenorm.lab.study.configuration import Schedule

LOOK_EVERY = 50
"""Steps between two looks at the loss: each look makes a GPU wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train."""

    epochs: int
    lr: float
    optimizer: Literal["sgd", "adamw"]
    schedule: Schedule
    weight_decay: float
    seed: int
    augment: tuple[str, ...] = ()


class Training:
    """A training between two epochs: run them one by one; save it, and go on from there to the same bits.

    Args:
        network: trained in place with cross entropy, and left in training mode.
        feed: the training images; shuffled anew each epoch by the recipe's seed.
        recipe: optimizer, rates, epochs, augmentation.

    Raises:
        Diverged: the loss of an epoch is not finite.
    """

    def __init__(self, network: nn.Module, feed: Feed, recipe: Recipe) -> None:
        self._network, self._feed, self._recipe = network, feed, recipe
        self._optimizer = _optimizer(network, recipe)
        self._scheduler = LambdaLR(self._optimizer, rate_factor(recipe.schedule, recipe.epochs * len(feed)))
        self._order = torch.Generator().manual_seed(recipe.seed)
        self._random: dict[str, Tensor] | None = None
        self._device = feed.split.labels.device
        self.losses: list[float] = []

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.losses)

    def run_epoch(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Train through the images once; the global random state is left as it was."""
        self._network.train()
        total = torch.zeros((), device=self._device)
        vary = partial(augment, kinds=self._recipe.augment, generator=self._order)
        batches = self._feed.in_order(torch.randperm(len(self._feed.split), generator=self._order), vary)
        with self._own_random_numbers():
            for step, (images, labels) in enumerate(batches):
                with precision(self._device):
                    loss = F.cross_entropy(self._network(images), labels)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
                self._scheduler.step()
                total += loss.detach()
                on_step()
                if step % LOOK_EVERY == 0:
                    self._check(total, step)
        self._check(total, len(self._feed))
        self.losses.append(total.item() / len(self._feed))

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on: tensors, numbers and strings."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "order": self._order.get_state(),
            "random": self._random,
            "losses": list(self.losses),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, of the same recipe."""
        self._network.load_state_dict(saved["network"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._scheduler.load_state_dict(saved["scheduler"])
        self._order.set_state(saved["order"])
        self._random = saved["random"]
        self.losses = list(saved["losses"])

    @contextmanager
    def _own_random_numbers(self) -> Generator[None]:
        """Dropout and the like draw the seed's random numbers, whatever ran before; the global state is restored."""
        on_gpu = self._device.type == "cuda"
        with torch.random.fork_rng([self._device] if on_gpu else []):
            if self._random is None:
                torch.manual_seed(self._recipe.seed)
            else:
                torch.set_rng_state(self._random["cpu"])
                if on_gpu:
                    torch.cuda.set_rng_state(self._random["cuda"], self._device)
            yield
            self._random = {"cpu": torch.get_rng_state()}
            if on_gpu:
                self._random["cuda"] = torch.cuda.get_rng_state(self._device)

    def _check(self, total: Tensor, step: int) -> None:
        if not math.isfinite(total.item()):
            raise Diverged(
                f"training diverged in epoch {self.epoch + 1} by step {step}: the loss is {total.item()} at --lr "
                f"{self._recipe.lr:g}; try a smaller rate"
            )


def train(network: nn.Module, feed: Feed, recipe: Recipe, *, on_step: Callable[[], None] = lambda: None) -> list[float]:
    """Train from the first epoch to the last; see `Training`.

    Returns:
        the mean training loss of each epoch.

    Raises:
        Diverged: the loss is not finite.
    """
    training = Training(network, feed, recipe)
    while training.epoch < recipe.epochs:
        training.run_epoch(on_step)
    return training.losses


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on a GPU; nothing on a CPU.

    Example:
        >>> with precision(torch.device("cpu")):
        ...     (torch.ones(2) / 3).dtype
        torch.float32
    """
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def rate_factor(schedule: Schedule, num_steps: int) -> Callable[[int], float]:
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
            with precision(feed.split.labels.device):
                outputs = [network(images) for images, _ in feed]
            logits = torch.cat(outputs).float().cpu()
    finally:
        network.train(mode)
    if not bool(logits.isfinite().all()):
        raise Diverged("what the trained network gives is not finite; try a smaller --lr")
    return logits


def _optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    if recipe.optimizer == "sgd":
        return SGD(network.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    return AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)

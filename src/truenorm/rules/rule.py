"""What a rule is: a way of having inference statistics from the stream of batch moments of a training run.

The running statistics are not read in training, so any number of rules can follow one run. A rule is a
frozen dataclass of pure functions: `init` gives a state, `update` folds T batches into it, `read` says
what inference would use. Many layers are folded at once: their channels lie side by side (`Layout`).

`momentum` is torch's: the weight of the new batch (Keras's and the β of textbooks are 1 − ours).

Shapes: C channels of all layers together, L layers, K readings of a rule, T batches.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from truenorm.errors import InvalidInput


@dataclass(frozen=True)
class Layout:
    """How the channels of several layers lie side by side.

    Args:
        sizes: channels of each layer.
        eps: ε of each layer.
        device: where the state lives.

    Example:
        >>> Layout((2, 1), (1e-5, 1e-5)).mean_by_layer(torch.tensor([1.0, 3.0, 7.0]))
        tensor([2., 7.])
    """

    sizes: tuple[int, ...]
    eps: tuple[float, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def layer_C(self) -> Tensor:
        """The number of the layer of each channel, of shape (C,)."""
        sizes = torch.tensor(self.sizes, device=self.device)
        return torch.arange(len(self.sizes), device=self.device).repeat_interleave(sizes)

    @cached_property
    def eps_C(self) -> Tensor:
        """ε of each channel, of shape (C,)."""
        return torch.tensor(self.eps, dtype=torch.float64, device=self.device)[self.layer_C]

    @cached_property
    def _share(self) -> dict[torch.dtype, Tensor]:
        """1/channels where the channel is of the layer, else 0, of shape (L, C)."""
        share = torch.nn.functional.one_hot(self.layer_C, len(self.sizes)).T.double()
        share /= share.sum(1, keepdim=True)
        return {torch.float64: share.contiguous(), torch.float32: share.float().contiguous()}

    def mean_by_layer(self, values: Tensor) -> Tensor:
        """Mean over the channels of each layer: (..., C) → (..., L), float32 or float64."""
        return torch.nn.functional.linear(values, self._share[values.dtype])

    def span(self, first: int, last: int) -> "Layout":
        """The layers `first` to `last` (exclusive) alone."""
        if (first, last) == (0, len(self.sizes)):
            return self
        return Layout(self.sizes[first:last], self.eps[first:last], self.device)


@dataclass(frozen=True)
class Batches:
    """Moments of T batches in order, float64.

    Args:
        mean_TC, var_TC: means and biased variances, of shape (T, C).
        count_TC: values per channel, of shape (T, C), or (T, 1) where all channels have as many.
    """

    mean_TC: Tensor
    var_TC: Tensor
    count_TC: Tensor

    def __len__(self) -> int:
        return len(self.mean_TC)

    @cached_property
    def unbiased_TC(self) -> Tensor:
        """v·n/(n−1): what torch stores as running_var."""
        return self.var_TC * (self.count_TC / (self.count_TC - 1))


@dataclass(frozen=True)
class State:
    """What a rule remembers: tensors whose last dimension is channels, and others of layers."""

    channels: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    layers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True)
class Reading:
    """What the K readings of a rule say.

    Args:
        mean_KC, var_KC: what inference would use, of shape (K, C).
        momentum_KL: the momentum of each layer, of shape (K, L); None for a rule without.
        count_KC: values per channel that were pooled; None where the rule forgets.
        design_effect_KL: how dependent the values of a batch were; None where it was not measured.
    """

    mean_KC: Tensor
    var_KC: Tensor
    momentum_KL: Tensor | None = None
    count_KC: Tensor | None = None
    design_effect_KL: Tensor | None = None


class Rule(Protocol):
    """What the watch asks of a rule; `step` is the number of batches before this call."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its K readings."""
        ...

    counts: ClassVar[Literal["training", "gradient"]]
    """Which batches it takes: every training forward, as torch does, or those with gradient only."""

    def init(self, layout: Layout) -> State:
        """The state before the first batch."""
        ...

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        """The state after these batches."""
        ...

    def end_epoch(self, state: State) -> State:
        """The state after the end of an epoch."""
        ...

    def read(self, state: State, layout: Layout) -> Reading:
        """What inference would use."""
        ...


@dataclass(frozen=True)
class PlainRule:
    """What most rules share: nothing happens at an epoch's end, all batches count, the state is (M, V)."""

    counts: ClassVar[Literal["training", "gradient"]] = "training"

    def end_epoch(self, state: State) -> State:
        return state

    def read(self, state: State, layout: Layout) -> Reading:
        return Reading(state.channels["mean"], state.channels["var"])


@dataclass(frozen=True)
class Sweep(PlainRule):
    """Exponential averages (M, V) under each of K momenta; the readings are called `kind-momentum`."""

    momenta: tuple[float, ...]
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_momenta(self.momenta)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.kind}-{momentum:g}" for momentum in self.momenta)

    def init(self, layout: Layout) -> State:
        return untouched(len(self.momenta), layout)

    def read(self, state: State, layout: Layout) -> Reading:
        momentum_KL = torch.tensor(self.momenta, dtype=torch.float64)[:, None].expand(-1, len(layout.sizes))
        return Reading(state.channels["mean"], state.channels["var"], momentum_KL)


def check_momenta(momenta: Iterable[float]) -> None:
    """Refuse momenta that are none, with the reason.

    Example:
        >>> check_momenta((0.1, 1.5))
        Traceback (most recent call last):
        truenorm.errors.InvalidInput: momentum 1.5 is outside (0, 1]; torch's momentum is the weight of the new batch
    """
    found = tuple(momenta)
    if not found:
        raise InvalidInput("no momentum was given; name at least one, such as 0.1")
    for momentum in found:
        if not (0 < momentum <= 1) or math.isnan(momentum):
            raise InvalidInput(
                f"momentum {momentum:g} is outside (0, 1]; torch's momentum is the weight of the new batch"
            )
    names = [f"{momentum:g}" for momentum in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"momentum {name} was given twice")


def ema_weights(gain: Tensor) -> tuple[Tensor, Tensor]:
    """Gains of T steps (..., T) → weight of what was stored (...) and of each batch (..., T)."""
    left = torch.flip(torch.cumprod(torch.flip(1 - gain, (-1,)), -1), (-1,))  # Π of (1 − a_i), i ≥ j
    after = torch.cat([left[..., 1:], torch.ones_like(left[..., :1])], -1)
    return left[..., 0], gain * after


def untouched(num_readings: int, layout: Layout) -> State:
    """Mean 0 and variance 1, as torch's buffers begin."""
    mean = zeros((num_readings, sum(layout.sizes)), layout)
    return State({"mean": mean, "var": mean + 1})


def zeros(shape: tuple[int, ...], layout: Layout) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=layout.device)

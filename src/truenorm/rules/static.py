"""torch's own running statistics, for any number of momenta: exponential averages of unbiased variances."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from truenorm.rules.rule import (
    Batches,
    Layout,
    PlainRule,
    Reading,
    State,
    Sweep,
    check_momenta,
    ema_weights,
    untouched,
)

SWEEP = (0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.15, 0.22, 0.33, 0.5, 0.9)
"""The default sweep: 16 momenta, log-spaced, with 0.01, 0.1, 0.5 and 0.9 among them."""


@dataclass(frozen=True)
class Static(Sweep):
    r"""torch's running statistics, for every momentum of a sweep at once.

    $$ M \leftarrow (1-a) M + a\,m_b \qquad V \leftarrow (1-a) V + a\,v_b \tfrac{n}{n-1} \qquad M_0 = 0, V_0 = 1 $$

    Args:
        momenta: a, in (0, 1]; the readings are called `static-a`.

    Raises:
        InvalidInput: a momentum outside (0, 1], or one given twice.

    Example:
        >>> Static((0.1, 0.01)).names
        ('static-0.1', 'static-0.01')
    """

    momenta: tuple[float, ...] = SWEEP
    kind: ClassVar[str] = "static"

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        keep_K, weight_KT = ema_weights(
            torch.tensor(self.momenta, dtype=torch.float64)[:, None].expand(-1, len(batches))
        )
        keep, weight = keep_K[:, None].to(layout.device), weight_KT.to(layout.device)
        return State(
            {
                "mean": keep * state.channels["mean"] + weight @ batches.mean_TC,
                "var": keep * state.channels["var"] + weight @ batches.unbiased_TC,
            }
        )


@dataclass(frozen=True)
class Cumulative(PlainRule):
    """torch's `momentum=None`: the plain average of all batches since the start, unbiased variances.

    Example:
        >>> Cumulative().names
        ('cumulative',)
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("cumulative",)

    def init(self, layout: Layout) -> State:
        return untouched(1, layout)

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        total = step + len(batches)
        keep = step / total
        return State(
            {
                "mean": keep * state.channels["mean"] + batches.mean_TC.sum(0) / total,
                "var": keep * state.channels["var"] + batches.unbiased_TC.sum(0) / total,
            }
        )


@dataclass(frozen=True)
class Switched(PlainRule):
    """torch's running statistics under a momentum of each layer's own, which may be changed on the way.

    Args:
        name: what the reading is called.
        start: the momentum of every layer until it is switched.

    Example:
        >>> Switched("dmbn-switch").names
        ('dmbn-switch',)
    """

    name: str
    start: float = 0.1

    def __post_init__(self) -> None:
        check_momenta((self.start,))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def init(self, layout: Layout) -> State:
        momentum = torch.full((1, len(layout.sizes)), self.start, dtype=torch.float64, device=layout.device)
        return State(untouched(1, layout).channels, {"momentum": momentum})

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        gain_CT = state.layers["momentum"][0, layout.layer_C, None].expand(-1, len(batches))
        keep_C, weight_CT = ema_weights(gain_CT)
        return State(
            {
                "mean": keep_C * state.channels["mean"] + (weight_CT.T * batches.mean_TC).sum(0),
                "var": keep_C * state.channels["var"] + (weight_CT.T * batches.unbiased_TC).sum(0),
            },
            state.layers,
        )

    def read(self, state: State, layout: Layout) -> Reading:
        return Reading(state.channels["mean"], state.channels["var"], state.layers["momentum"])

    def switched(self, state: State, momentum_L: Tensor) -> State:
        """The same statistics, going on under another momentum in each layer."""
        return State(state.channels, {"momentum": momentum_L[None].to(state.layers["momentum"])})

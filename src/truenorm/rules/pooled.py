"""Pooled statistics: biased variances of batches, and the variance between batches; no factor n/(n−1)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from truenorm.rules.rule import (
    Batches,
    Layout,
    PlainRule,
    Reading,
    State,
    Sweep,
    ema_weights,
    zeros,
)
from truenorm.stats.moments import mixture


@dataclass(frozen=True)
class Pooled(Sweep):
    r"""Pooled running statistics: biased variances of batches, and the variance between batches.

    $$ a = \max(\mathrm{momentum}, 1/t), \quad \delta = m_b - M, \quad M \leftarrow M + a\delta, \quad
       V \leftarrow (1-a) V + a v_b + a(1-a)\delta^2 $$

    An average at first, then an exponential one; v_b is the biased variance of the batch. For independent values
    torch's factor n/(n−1) gives the same in the mean. Behind another batch norm the means of batches hardly vary,
    v_b is nearly the population's variance already, and the factor is too much.

    Args:
        momenta: in (0, 1]; the readings are called `pooled-a`.

    Raises:
        InvalidInput: a momentum outside (0, 1], or one given twice.

    Example:
        >>> Pooled((0.1,)).names
        ('pooled-0.1',)
    """

    momenta: tuple[float, ...] = (0.1,)
    kind: ClassVar[str] = "pooled"

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        momentum_K1 = torch.tensor(self.momenta, dtype=torch.float64)[:, None]
        t_T = torch.arange(step + 1, step + len(batches) + 1, dtype=torch.float64)
        keep_K, weight_KT = ema_weights(torch.maximum(momentum_K1, 1 / t_T))
        mean, var = mixture(
            keep_K.to(layout.device),
            state.channels["mean"],
            state.channels["var"],
            weight_KT=weight_KT.to(layout.device),
            batch_mean_TC=batches.mean_TC,
            batch_var_TC=batches.var_TC,
        )
        return State({"mean": mean, "var": var})


@dataclass(frozen=True)
class Population(PlainRule):
    r"""Pooled moments of every batch since the start, or of the last whole epoch; each value weighs the same.

    With `epochs=False` the reading is the pool of all batches so far: what a pass over data measures. With
    `epochs=True` it is the pool of the last epoch that was ended (`Watch.end_epoch`): free of sampling noise
    for shuffled epochs, right when the learning rate ends at zero, late when weights still move.

    $$ \mu = \frac{\sum_t n_t m_t}{\sum_t n_t} \qquad
       \sigma^2 = \frac{\sum_t n_t \left(v_t + (m_t - \mu)^2\right)}{\sum_t n_t} $$

    Args:
        name: what the reading is called.
        epochs: read the last ended epoch instead of everything.

    Source: pooling after Chan, Golub & LeVeque 1983.

    Example:
        >>> Population("last-epoch", epochs=True).names
        ('last-epoch',)
    """

    name: str = "population"
    epochs: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def init(self, layout: Layout) -> State:
        return State({key: zeros((1, sum(layout.sizes)), layout) for key in (*_OPEN, *_ENDED)})

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        count_C = batches.count_TC.sum(0).expand_as(batches.mean_TC[0])
        mean_C = (batches.count_TC * batches.mean_TC).sum(0) / count_C
        between_C = (batches.count_TC * (batches.mean_TC - mean_C).square()).sum(0)
        within_C = (batches.count_TC * batches.var_TC).sum(0)
        old = state.channels
        total = old["count"] + count_C
        delta = mean_C - old["mean"]
        return State(
            {
                **old,
                "count": total,
                "batches": old["batches"] + len(batches),
                "mean": old["mean"] + delta * (count_C / total),
                "within": old["within"] + within_C,
                "between": old["between"] + between_C + delta.square() * (old["count"] * count_C / total),
            }
        )

    def end_epoch(self, state: State) -> State:
        if not self.epochs:
            return state
        now = state.channels
        seen = now["count"] > 0  # a layer that no batch reached keeps the epoch before
        ended = {old: torch.where(seen, now[new], now[old]) for new, old in zip(_OPEN, _ENDED, strict=True)}
        return State({**{key: torch.zeros_like(now[key]) for key in _OPEN}, **ended})

    def read(self, state: State, layout: Layout) -> Reading:
        keys = _ENDED if self.epochs else _OPEN
        batches, count, mean, within, between = (state.channels[key] for key in keys)
        var = (within + between) / count
        live = var > 0
        effect = layout.mean_by_layer(torch.where(live, between / (batches - 1) / var, 0.0))
        share = layout.mean_by_layer(live.double())
        return Reading(mean, var, count_KC=count, design_effect_KL=effect / share)


@dataclass(frozen=True)
class Within(Population):
    r"""As `Population`, with the mean of the batches' biased variances: what training divided by, on average.

    $$ \sigma^2 = \frac{\sum_t n_t v_t}{\sum_t n_t} $$

    Too small for the population by the variance between batches; at tiny batches the weights may prefer it.

    Example:
        >>> Within().names
        ('within',)
    """

    name: str = "within"

    def read(self, state: State, layout: Layout) -> Reading:
        count, within = (_ENDED[1], _ENDED[3]) if self.epochs else (_OPEN[1], _OPEN[3])
        return replace(super().read(state, layout), var_KC=state.channels[within] / state.channels[count])


_OPEN = ("batches", "count", "mean", "within", "between")
_ENDED = ("ended_batches", "ended_count", "ended_mean", "ended_within", "ended_between")

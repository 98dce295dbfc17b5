"""The moments of each call of a layer that is called several times per forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.data.batches import Batch
from truenorm.model.evaluate import Forward, device_of, evaluating, run
from truenorm.model.layers import batch_norms, stored_by
from truenorm.model.mask import ALL, Mask, valid_positions
from truenorm.model.observe import LayerMoments
from truenorm.model.scratch import channel_dim
from truenorm.rules import Population
from truenorm.stats.moments import Moments, merge

_MOST = 64
"""Calls of a layer in one forward that are told apart; later ones are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What one call of a layer sees, over all batches; and over every second batch, which shows what is chance."""

    moments: Moments
    halves: tuple[Moments, Moments]


def calls_of(
    model: nn.Module,
    batches: Sequence[Batch],
    names: Sequence[str],
    *,
    forward: Forward | None,
    mask: Mask | None = None,
) -> dict[str, tuple[Call, ...]]:
    """The moments of what reaches each call of these layers, in their order within a forward, in the joint flow.

    Calls that fewer than two batches reach are left out.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> both = lambda model, batch: (model(batch), model(batch + 5))
        >>> batches = [Batch.of(torch.randn(32, 2)) for _ in range(4)]
        >>> first, second = calls_of(norm, batches, [""], forward=both)[""]
        >>> bool((second.moments.mean - first.moments.mean - 5).abs().max() < 1e-4)
        True
    """
    layers = {name: layer for name, layer in batch_norms(model).items() if name in names}
    seen: dict[str, list[tuple[list[Moments], list[Moments]]]] = {name: [] for name in layers}
    called: dict[str, int] = {}
    half, valid = 0, ALL

    def look(name: str, num_channels: int) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            number = called[name] = called.get(name, -1) + 1
            values = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
            dim = None if values is None else channel_dim(values, num_channels)
            if values is None or dim is None or number >= _MOST or not values.numel():
                return
            rows = values.dequantize() if values.is_quantized else values
            rows = valid.rows(rows.detach(), dim, name).double().movedim(1, 0).flatten(1)
            if rows.shape[1] < 2:
                return
            if number == len(seen[name]):
                seen[name].append(([], []))
            var, mean = torch.var_mean(rows, 1, correction=0)
            seen[name][number][half].append(Moments(mean.cpu(), var.cpu(), rows.shape[1]))

        return hook

    observed = LayerMoments(batch_norms(model), (Population(),))
    handles = [
        layer.register_forward_pre_hook(look(name, stored_by(layer).num_channels), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model), observed.normalising([], leave_fixed=False):
            for number, batch in enumerate(batches):
                half = number % 2
                called.clear()
                here = batch.to(device_of(model))
                valid = valid_positions(mask, here.original)
                observed.start_batch(valid)
                run(model, here, forward)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: tuple(
            Call(merge([*even, *odd]), (merge(even), merge(odd))) for even, odd in calls if len(even) and len(odd)
        )
        for name, calls in seen.items()
    }

"""Statistics of several processes as one: a single collective, merged in rank order, the same bits everywhere."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from truenorm.errors import NotMeasurable
from truenorm.model.evaluate import device_of
from truenorm.model.layers import batch_norms, stored_by
from truenorm.stats.moments import Moments
from truenorm.stats.provenance import Provenance
from truenorm.stats.statistics import Statistics, merge_statistics


def num_processes() -> int:
    """Processes of the default group; 1 outside of it.

    Example:
        >>> num_processes()
        1
    """
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if available else 1


@contextmanager
def all_or_none() -> Generator[None]:
    """Where the block fails in one process it fails in all, so that none waits for the others for ever.

    Raises:
        NotMeasurable: another process failed, with its sentence.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, the other processes must hear of it
        failure = error
    if num_processes() > 1:
        told: list[str | None] = [None] * num_processes()
        torch.distributed.all_gather_object(told, None if failure is None else str(failure))
        others = [f"process {rank}: {what}" for rank, what in enumerate(told) if what is not None]
        if failure is None and others:
            raise NotMeasurable(f"another process failed; {others[0]}")
    if failure is not None:
        raise failure


def gathered(model: nn.Module, found: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """What all processes measured, pooled by count (Chan); the variance `within` batches is averaged.

    Every process calls this once, however many batches it had; a layer may have been reached in some only.

    Args:
        model: the network; gives the layers and the device that the collective runs on.
        found: statistics by estimate, with counts.

    Returns:
        the same on every process; outside a process group what was given.

    Example:
        >>> gathered(nn.BatchNorm1d(2), {})
        {}
    """
    world = num_processes()
    if world == 1 or not found:
        return dict(found)
    layers = {name: stored_by(layer).num_channels for name, layer in batch_norms(model).items()}
    device = device_of(next(iter(batch_norms(model).values())))
    samples = torch.tensor([[float(one.provenance.samples or 0)] for one in found.values()], dtype=torch.float64)
    packed = torch.stack([_packed(statistics, layers) for statistics in found.values()])
    mine = torch.cat([samples, packed], 1).flatten().to(device)
    everyone = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(everyone, mine)
    size = len(mine) // len(found)
    merged: dict[str, Statistics] = {}
    for number, (name, statistics) in enumerate(found.items()):
        rows = [values[number * size : (number + 1) * size].cpu() for values in everyone]
        seen = int(sum(float(row[0]) for row in rows))
        parts = [_unpacked(row[1:], layers) for row in rows]
        merged[name] = _merged(parts, replace(statistics.provenance, samples=seen, processes=world))
    return merged


def _packed(statistics: Statistics, layers: Mapping[str, int]) -> Tensor:
    """Count, design effect (NaN: not known), means, variances of every layer; a count of 0 where none came."""
    parts: list[Tensor] = []
    for name, size in layers.items():
        moments = statistics.get(name)
        if moments is None:
            parts.append(torch.zeros(2 + 2 * size, dtype=torch.float64))
            continue
        effect = float("nan") if moments.design_effect is None else moments.design_effect
        head = torch.tensor([float(moments.count or 0), effect], dtype=torch.float64)
        parts.append(torch.cat([head, moments.mean.double().cpu(), moments.var.double().cpu()]))
    return torch.cat(parts)


def _unpacked(values: Tensor, layers: Mapping[str, int]) -> Statistics:
    found: dict[str, Moments] = {}
    start = 0
    for name, size in layers.items():
        count, effect = int(values[start]), float(values[start + 1])
        mean, var = values[start + 2 : start + 2 + 2 * size].split(size)
        if count:
            found[name] = Moments(mean.clone(), var.clone(), count, None if effect != effect else effect)
        start += 2 + 2 * size
    return Statistics(found)


def _merged(parts: list[Statistics], provenance: Provenance) -> Statistics:
    pooled = merge_statistics(parts)
    if provenance.variance != "within":
        return Statistics(dict(pooled), provenance=provenance)
    averaged: dict[str, Moments] = {}
    for layer, moments in pooled.items():
        assert moments.count is not None
        var = torch.zeros_like(moments.var)
        for part in parts:
            if layer in part:
                var += part[layer].var * ((part[layer].count or 0) / moments.count)
        averaged[layer] = Moments(moments.mean, var, moments.count, moments.design_effect)
    return Statistics(averaged, provenance=provenance)

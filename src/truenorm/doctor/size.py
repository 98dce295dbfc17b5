"""How many samples are looked at: fixed once, from one timed forward, before anything is measured."""

from collections.abc import Iterable, Iterator
from itertools import chain
from time import perf_counter
from typing import Any

from torch import nn

from truenorm.data.batches import Batch, batches_of
from truenorm.model.evaluate import Forward, evaluating, run

LIMIT = 2000
"""Samples that are looked at where the network is fast."""

LEAST = 128
"""Samples that are looked at in any case: half of them are scored."""

SECONDS = 120.0
"""What a diagnosis may take."""

PASSES = 8
"""Evaluation passes over the samples that a diagnosis of a network with a fault makes."""


def fitting(
    model: nn.Module, data: Iterable[Any], *, forward: Forward | None, limit: int | None
) -> tuple[int, Iterator[Batch]]:
    """The number of samples to look at, and the batches, of which none is lost.

    Args:
        model: the network; one batch is run, twice, as the first run of a network may take longer.
        data: batches.
        forward: how to run one.
        limit: the number if it is given: then nothing is timed.

    Example:
        >>> import torch
        >>> size, batches = fitting(nn.Flatten(), [torch.ones(4, 2)] * 3, forward=None, limit=None)
        >>> size, len(list(batches))
        (2000, 3)
    """
    batches = batches_of(data, limit=None)
    if limit is not None:
        return limit, batches_of(data, limit=limit)
    first = next(batches)
    try:
        with evaluating(model):
            run(model, first, forward)
            start = perf_counter()
            run(model, first, forward)
            seconds = perf_counter() - start
    except Exception:  # what cannot be run fails in the passes, which say where
        return LIMIT, chain([first], batches)
    affordable = int(SECONDS / PASSES / max(seconds / max(first.size, 1), 1e-9))
    return min(LIMIT, max(LEAST, affordable)), chain([first], batches)

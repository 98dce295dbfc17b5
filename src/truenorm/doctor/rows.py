"""Whether the samples of a loader can be batched anew."""

from typing import Any

import torch
from torch import Tensor, nn

from truenorm.data.sample import Sample, tensors_in
from truenorm.model.evaluate import Forward, evaluating, run

_ROWS = 8
"""Samples that are run whole and in two halves."""

_SAME = 1e-2
"""Relative difference of outputs below which they are the same."""


def independent(model: nn.Module, sample: Sample, forward: Forward | None) -> bool | None:
    """Whether in evaluation mode an output depends on no other sample of its batch; None where that cannot be tried.

    Example:
        >>> from truenorm.data.sample import take_sample
        >>> independent(nn.BatchNorm1d(3), take_sample([torch.randn(8, 3)], limit=8), None)
        True
    """
    if sample.joined is None:
        return None
    size = min(_ROWS, len(sample))
    if size < 2:
        return True
    together, half = sample.rows(torch.arange(size)), size // 2
    parts = [sample.rows(torch.arange(half)), sample.rows(torch.arange(half, size))]
    try:
        with evaluating(model):
            whole = _outputs(model, together, forward)
            first, second = (_outputs(model, part, forward) for part in parts)
    except Exception:  # it takes no other batches than the loader's
        return None
    if not whole or not len(whole) == len(first) == len(second):
        return None
    if any(a.shape[1:] != b.shape[1:] for a, *parts in zip(whole, first, second, strict=True) for b in parts):
        return None  # a matrix of all pairs, say
    return all(map(_same, whole, first, second))


def _outputs(model: nn.Module, sample: Sample, forward: Forward | None) -> list[Tensor]:
    size = len(sample)
    outputs: list[Any] = [run(model, batch, forward) for batch in sample.batched(size).batches]
    return [tensor for tensor in tensors_in(outputs) if tensor.ndim and len(tensor) == size]


def _same(whole: Tensor, first: Tensor, second: Tensor) -> bool:
    whole, halves = (x.dequantize() if x.is_quantized else x for x in (whole, torch.cat([first, second])))
    difference = (whole.double() - halves.double()).abs().max()
    return not bool(difference > _SAME * whole.double().abs().max())

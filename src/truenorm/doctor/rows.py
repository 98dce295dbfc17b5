"""Whether the samples of a loader can be batched anew."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.data.sample import Sample, tensors_in
from truenorm.model.evaluate import Forward, evaluating, run

_ROWS = 8
"""Samples that are run whole and in two halves."""

_SAME = 1e-2
"""Relative difference of outputs below which they are the same."""


def taken_apart(model: nn.Module, sample: Sample, forward: Forward | None) -> Sample:
    """The sample, of which batches are cut or joined only where an output does not depend on the others of its batch.

    A few samples are run in evaluation mode, together and in two halves. With a `forward` of the user's what is scored
    stays in the loader's own batches in any case.

    Example:
        >>> from truenorm.data.sample import take_sample
        >>> sample = take_sample([torch.randn(8, 3)], limit=8)
        >>> taken_apart(nn.BatchNorm1d(3, track_running_stats=False), sample, None).joined is None
        True
    """
    if sample.joined is None or _independent(model, sample, forward):
        return replace(sample, whole=forward is not None)
    return replace(sample, joined=None)


def _independent(model: nn.Module, sample: Sample, forward: Forward | None) -> bool:
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
        return False
    if not whole or not len(whole) == len(first) == len(second):
        return False
    return all(map(_same, whole, first, second))


def _outputs(model: nn.Module, sample: Sample, forward: Forward | None) -> list[Tensor]:
    size = len(sample)
    outputs: list[Any] = [run(model, batch, forward) for batch in sample.batched(size).batches]
    return [tensor for tensor in tensors_in(outputs) if tensor.ndim and len(tensor) == size]


def _same(whole: Tensor, first: Tensor, second: Tensor) -> bool:
    if first.shape[1:] != whole.shape[1:] or second.shape[1:] != whole.shape[1:]:
        return False
    whole, halves = (x.dequantize() if x.is_quantized else x for x in (whole, torch.cat([first, second])))
    difference = (whole.double() - halves.double()).abs().max()
    return not bool(difference > _SAME * whole.double().abs().max())

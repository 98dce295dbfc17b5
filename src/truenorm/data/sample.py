"""A sample of a loader, held in memory: read once, then taken apart in any way and any number of times."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from truenorm.data.batches import batches_of, images_in, labels_in, num_samples
from truenorm.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Batches of a loader. Where they are made of tensors, they can be batched anew.

    Args:
        batches: as the loader gave them.
        joined: all of them as one batch; None where that cannot be made.
    """

    batches: tuple[Any, ...]
    joined: Any | None

    def __len__(self) -> int:
        """Samples."""
        return sum(num_samples(batch) for batch in self.batches)

    @property
    def batch_size(self) -> int:
        """That of the largest batch."""
        return max(num_samples(batch) for batch in self.batches)

    @property
    def labels(self) -> Tensor | None:
        """The class of every sample; None where the batches have none."""
        found = [labels_in(batch) for batch in self.batches]
        return None if any(labels is None for labels in found) else torch.cat(cast(list[Tensor], found))

    def parts(self, share: float = 0.5) -> tuple["Sample", "Sample"]:
        """Two samples without a common element: shuffled (always the same way), else every second batch.

        A single sample, or a single batch that cannot be cut, is both.
        """
        if self.joined is None:
            if len(self.batches) < 2:
                return self, self
            return Sample(self.batches[::2], None), Sample(self.batches[1::2], None)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        first = min(max(1, math.ceil(share * len(self))), max(1, len(self) - 1))
        return self.rows(order[:first]), self.rows(order[first:] if len(self) > 1 else order)

    def rows(self, order: Tensor) -> "Sample":
        """These samples in this order, in batches of the size they had."""
        assert self.joined is not None
        return replace(self, joined=_rows(self.joined, order)).batched(self.batch_size)

    def batched(self, size: int) -> "Sample":
        """The same samples in batches of another size; a last one of a single sample is joined to its neighbour."""
        if self.joined is None:
            return self
        total = num_samples(self.joined)
        starts = list(range(0, total, size))
        if len(starts) > 1 and total - starts[-1] == 1:
            starts.pop()
        ends = [*starts[1:], total]
        parts = [_rows(self.joined, slice(a, b)) for a, b in zip(starts, ends, strict=True)]
        return Sample(tuple(parts), self.joined)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Sample | None":
        """With other images; None where there is no tensor of floating-point images."""
        if self.joined is None or not images_in(self.joined).is_floating_point():
            return None
        images = images_in(self.joined)
        return replace(self, joined=_exchanged(self.joined, images, change(images))).batched(self.batch_size)


def take_sample(data: Iterable[Any], *, limit: int, memory: int = 2**30) -> Sample:
    """Read batches until there are enough of them.

    Args:
        data: an iterable of batches; it is read once.
        limit: samples after which to stop.
        memory: bytes of tensors after which to stop.

    Raises:
        InvalidInput: no batches, or images with values that are not finite.

    Example:
        >>> sample = take_sample([torch.ones(4, 2)] * 5, limit=8)
        >>> len(sample), len(sample.batched(3).batches)
        (8, 3)
    """
    batches: list[Any] = []
    held = 0
    for number, batch in enumerate(batches_of(data, limit=limit)):
        for tensor in _tensors(batch):
            held += tensor.nbytes
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise InvalidInput(f"batch {number} of the data holds values that are not finite (NaN or inf)")
        batches.append(batch)
        if held > memory:
            break
    return Sample(tuple(batches), _joined(batches))


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in cast(Mapping[Any, Any], batch).values():
            yield from _tensors(value)
    elif isinstance(batch, tuple | list):
        for value in cast(Sequence[Any], batch):
            yield from _tensors(value)


def _joined(batches: list[Any]) -> Any | None:
    """All batches as one, if every tensor in them has a row for each sample and the same shape otherwise."""
    first = batches[0]
    if isinstance(first, Tensor):
        alike = all(isinstance(b, Tensor) and b.ndim and b.shape[1:] == first.shape[1:] for b in batches)
        return torch.cat(batches) if first.ndim and alike else None
    if isinstance(first, Mapping):
        keys = list(cast(Mapping[Any, Any], first))
        if any(not isinstance(b, Mapping) or list(cast(Mapping[Any, Any], b)) != keys for b in batches):
            return None
        return _complete({key: _joined([b[key] for b in batches]) for key in keys})
    if isinstance(first, tuple | list) and type(cast(object, first)) in (tuple, list):
        size = len(cast(Sequence[Any], first))
        if any(not isinstance(b, tuple | list) or len(cast(Sequence[Any], b)) != size for b in batches):
            return None
        parts = [_joined([b[i] for b in batches]) for i in range(size)]
        return None if any(part is None for part in parts) or not _same_length(parts) else type(first)(parts)
    return None


def _complete(parts: dict[Any, Any]) -> dict[Any, Any] | None:
    return None if any(part is None for part in parts.values()) or not _same_length(parts.values()) else parts


def _same_length(parts: Iterable[Any]) -> bool:
    return len({len(tensor) for part in parts for tensor in _tensors(part)}) == 1


def _rows(batch: Any, order: Tensor | slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[order if isinstance(order, slice) else order.to(batch.device)]
    if isinstance(batch, Mapping):
        return {key: _rows(value, order) for key, value in cast(Mapping[Any, Any], batch).items()}
    return type(batch)(_rows(value, order) for value in batch)


def _exchanged(batch: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(batch, Tensor):
        return new if batch is old else batch
    if isinstance(batch, Mapping):
        return {key: _exchanged(value, old, new) for key, value in cast(Mapping[Any, Any], batch).items()}
    return type(batch)(_exchanged(value, old, new) for value in batch)

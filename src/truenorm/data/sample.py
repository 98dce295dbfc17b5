"""A sample of a loader, held in memory: read once, then taken apart in any way and any number of times."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from truenorm.data.batches import Batch, batches_of
from truenorm.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Batches of a loader. Where they are made of tensors, they can be batched anew.

    Args:
        batches: as the loader gave them.
        joined: all of them as one batch; None where that cannot be made.
        whole: the two parts are of whole batches, though samples could be batched anew.
    """

    batches: tuple[Batch, ...]
    joined: Batch | None
    whole: bool = False

    def __len__(self) -> int:
        """Samples."""
        return sum(batch.size for batch in self.batches)

    @property
    def batch_size(self) -> int:
        """That of the largest batch."""
        return max(batch.size for batch in self.batches)

    @property
    def classes(self) -> Tensor | None:
        """The class of every sample; None where the batches have none."""
        classes = [batch.classes for batch in self.batches]
        return None if any(part is None for part in classes) else torch.cat(cast(list[Tensor], classes))

    def parts(self, share: float = 0.5) -> tuple["Sample", "Sample"]:
        """Two samples without a common element: halves of the shuffled samples, or of the batches; always the same.

        A single sample, or a single batch that cannot be cut, is both.
        """
        if self.joined is None and len(self.batches) < 2:
            return self, self
        if self.joined is None or (self.whole and len(self.batches) > 1):
            # Drawn, not every second one: loaders may give two domains in turn.
            drawn = torch.randperm(len(self.batches), generator=_seeded()).tolist()
            first = sorted(drawn[: _first_part(share, len(drawn))])
            second = [number for number in range(len(self.batches)) if number not in first]
            return self._of([self.batches[n] for n in first]), self._of([self.batches[n] for n in second])
        order = torch.randperm(len(self), generator=_seeded())
        first = _first_part(share, len(self))
        return self.rows(order[:first]), self.rows(order[first:] if len(self) > 1 else order)

    def _of(self, batches: list[Batch]) -> "Sample":
        joined = None if self.joined is None else _joined([batch.raw for batch in batches])
        return Sample(tuple(batches), None if joined is None else Batch.of(joined), self.whole)

    def rows(self, order: Tensor) -> "Sample":
        """These samples in this order, in batches of the size they had."""
        assert self.joined is not None
        return replace(self, joined=_rows(self.joined, order)).batched(self.batch_size)

    def batched(self, size: int) -> "Sample":
        """The same samples in batches of another size; a last one of a single sample is joined to its neighbour."""
        if self.joined is None:
            return self
        total = self.joined.size
        starts = list(range(0, total, size))
        if size > 1 and len(starts) > 1 and total - starts[-1] == 1:
            starts.pop()
        ends = [*starts[1:], total]
        parts = [_rows(self.joined, slice(a, b)) for a, b in zip(starts, ends, strict=True)]
        return replace(self, batches=tuple(parts))

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Sample | None":
        """With other images; None where there is no tensor of floating-point images."""
        images = None if self.joined is None else self.joined.images
        if self.joined is None or images is None or not images.is_floating_point():
            return None
        return replace(self, joined=self.joined.with_images(change(images))).batched(self.batch_size)


def _first_part(share: float, total: int) -> int:
    return min(max(1, math.ceil(share * total)), max(1, total - 1))


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
    batches: list[Batch] = []
    held = 0
    for number, batch in enumerate(batches_of(data, limit=limit)):
        if batch.size == 0:
            continue
        held += sum(tensor.nbytes for tensor in tensors_in(batch.raw))
        if not all(bool(images.isfinite().all()) for images in (batch.listed or [batch.images]) if images is not None):
            raise InvalidInput(f"batch {number} of the data holds images that are not finite (NaN or inf)")
        batches.append(batch)
        if held > memory:
            break
    if not batches:
        raise InvalidInput("every batch of the data is empty: none holds a sample")
    joined = _joined([batch.raw for batch in batches]) if all(map(_has_rows, batches)) else None
    return Sample(tuple(batches), None if joined is None else Batch.of(joined))


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and mappings, however deep."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in cast(Mapping[Any, Any], batch).values():
            yield from tensors_in(value)
    elif isinstance(batch, tuple | list):
        for value in cast(Sequence[Any], batch):
            yield from tensors_in(value)


def _has_rows(batch: Batch) -> bool:
    """Whether every tensor of the batch has one row for each sample. Lists of images have not."""
    tensors = tensors_in(batch.raw)
    return batch.listed is None and all(tensor.ndim > 0 and len(tensor) == batch.size for tensor in tensors)


def _joined(parts: list[Any]) -> Any | None:
    """All batches as one; None where their structures or shapes differ."""
    first = parts[0]
    if isinstance(first, Tensor):
        same = all(isinstance(part, Tensor) and part.shape[1:] == first.shape[1:] for part in parts)
        return torch.cat(parts) if same and all(part.dtype == first.dtype for part in parts) else None
    if isinstance(first, MutableMapping):
        names = list(cast(Mapping[Any, Any], first))
        if any(not isinstance(part, Mapping) or list(cast(Mapping[Any, Any], part)) != names for part in parts):
            return None
        whole: Any = copy.copy(cast(Any, first))
        for name in names:
            whole[name] = _joined([part[name] for part in parts])
        return None if any(whole[name] is None for name in names) else whole
    if type(first) in (tuple, list):
        if any(not isinstance(part, tuple | list) or len(cast(Sequence[Any], part)) != len(first) for part in parts):
            return None
        columns = [_joined([part[i] for part in parts]) for i in range(len(first))]
        return None if any(column is None for column in columns) else type(first)(columns)
    return None


def _rows(batch: Batch, order: Tensor | slice) -> Batch:
    return batch.map(lambda tensor: tensor[order if isinstance(order, slice) else order.to(tensor.device)])

"""What a batch is: a tensor, a tuple, or a mapping, as every loader has its own idea of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from truenorm.errors import InvalidInput, MissingFunction

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "input", "inputs", "x", "data")
"""Keys under which a mapping's images are looked for, in this order."""

LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")
"""Keys under which a mapping's classes are looked for, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch of a loader, and what was found in it.

    Args:
        raw: as the loader gave it.
        images: the tensor that a model is given: the batch itself, the first element of a tuple or list, or what a
            mapping holds under one of `IMAGE_KEYS`; None where there is no tensor in those places.
        listed: the list of images, each of shape (C, H, W), that stands in one of those places instead, as detectors
            take it.
        labels: the tensor beside it: the second element, or what a mapping holds under one of `LABEL_KEYS`.
        size: the number of samples.
        before: where the images were changed: what `raw` was before. A mask is taken from this.

    Example:
        >>> batch = Batch.of({"label": torch.zeros(2), "pixel_values": torch.ones(2, 3)})
        >>> batch.size, batch.input.shape
        (2, torch.Size([2, 3]))
    """

    raw: Any
    images: Tensor | None
    listed: list[Tensor] | None
    labels: Tensor | None
    size: int
    before: Any = None

    @classmethod
    def of(cls, raw: object) -> "Batch":
        """What is in a batch; a `Batch` is returned as it is."""
        if isinstance(raw, Batch):
            return raw
        listed = _listed(raw)
        if listed is not None:
            return cls(raw, None, listed, None, len(listed))
        if _is_list_of_samples(raw):
            return cls(raw, None, None, None, len(cast(Sized, raw)))
        return cls(raw, _images(raw), None, _labels(raw), _size(raw))

    @property
    def input(self) -> Tensor:
        """The images: the tensor itself, samples along its first dimension.

        Raises:
            MissingFunction: there is no tensor in the usual places.
        """
        if self.images is None:
            raise MissingFunction(
                f"a batch is {_describe(self.raw)}, and no tensor of images was found in it", "forward"
            )
        return self.images

    @property
    def given(self) -> Tensor | list[Tensor]:
        """What a model is called with: the images, or the list of them.

        Raises:
            MissingFunction: neither is in the usual places.

        Example:
            >>> len(Batch.of(([torch.ones(3, 8, 8), torch.ones(3, 6, 9)], [{}, {}])).given)
            2
        """
        return self.input if self.listed is None else self.listed

    @property
    def classes(self) -> Tensor | None:
        """The labels if they are one integer for each sample, of shape (N,); else None.

        Example:
            >>> Batch.of((torch.ones(2, 3), torch.tensor([0, 1]))).classes
            tensor([0, 1])
        """
        labels = self.labels
        if labels is None or labels.dtype.is_floating_point or labels.ndim != 1 or len(labels) != self.size:
            return None
        return labels

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """With every tensor changed; the structure, its classes and everything else are kept.

        Goes into tuples, named tuples, lists and mappings; the batch itself is not changed.

        Example:
            >>> Batch.of({"x": torch.ones(2), "name": "a"}).map(lambda x: 2 * x).raw
            {'x': tensor([2., 2.]), 'name': 'a'}
        """
        mapped = Batch.of(_mapped(self.raw, change))
        return mapped if self.before is None else replace(mapped, before=_mapped(self.before, change))

    def with_images(self, images: Tensor) -> "Batch":
        """With other images, of which it is known what they were.

        Example:
            >>> batch = Batch.of((torch.ones(2, 3), torch.zeros(2))).with_images(torch.zeros(2, 3))
            >>> batch.images.sum(), batch.original[0].sum()
            (tensor(0.), tensor(6.))
        """
        changed = self.map(lambda tensor: images if tensor is self.images else tensor)
        return replace(changed, before=self.original)

    @property
    def original(self) -> Any:
        """As the loader gave it, though its images were changed."""
        return self.raw if self.before is None else self.before

    def to(self, device: torch.device | str) -> "Batch":
        """With every tensor on `device`."""
        return self.map(lambda tensor: tensor.to(device))


def batches_of(data: object, *, limit: int | None) -> Iterator[Batch]:
    """One batch after the other, until `limit` samples have been given.

    A batch is given whole, so the last one may go beyond the limit. Where the samples of a batch cannot be counted by
    its images, they are the rows of a mapping's first tensor, or its `len`, or one.

    Args:
        data: any iterable of batches, a DataLoader or a list say.
        limit: number of samples after which to stop, None for all.

    Raises:
        InvalidInput: `data` cannot be iterated over, is one batch or a data set of single samples
            (all said at the call), or gave no batch at all (said when it is first asked for one).

    Example:
        >>> [batch.size for batch in batches_of([torch.ones(4, 2)] * 5, limit=8)]
        [4, 4]
    """
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit is {limit}; expected one sample or more")
    if isinstance(data, Tensor | Mapping | str | bytes):
        raise InvalidInput(
            f"data is {_describe(cast(object, data))}, not batches; give an iterable of batches: [batch]"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InvalidInput("data is a data set of single samples; wrap it: DataLoader(data, batch_size=...)")
    # Asked of the type: iter() of a DataLoader draws from the global random state.
    if not hasattr(type(data), "__iter__") and not hasattr(type(data), "__getitem__"):
        raise InvalidInput(
            f"data is {_describe(cast(object, data))}; expected an iterable of batches, such as a DataLoader"
        )
    return _counted(cast(Iterable[Any], data), limit)


def _counted(data: Iterable[Any], limit: int | None) -> Iterator[Batch]:
    empty, seen = True, 0
    for batch in map(Batch.of, data):
        empty = False
        yield batch
        seen += batch.size
        if limit is not None and seen >= limit:
            return
    if empty:
        raise InvalidInput(
            f"data ({type(data).__name__}) gave no batches; is it empty, used up, or shorter than one batch?"
        )


def _images(batch: object) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[object, object], batch)
        held = (mapping[key] for key in IMAGE_KEYS if key in mapping)
        return next((value for value in held if isinstance(value, Tensor)), None)
    if isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        return _images(items[0]) if items else None
    return None


def _listed(batch: object) -> list[Tensor] | None:
    """The images of a batch that holds them as a list or tuple; of any length where it is the first part of a batch."""
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[object, object], batch)
        return next((images for key in IMAGE_KEYS if key in mapping if (images := _all_images(mapping[key]))), None)
    if not isinstance(batch, tuple | list) or not batch:
        return None
    images = _all_images(cast(object, batch[0]))
    if images is None and (alone := _all_images(cast(object, batch))) is not None and len(alone) > 1:
        # Two tensors of three dimensions may be sequences and what is wanted of them.
        return alone if len(alone[0]) in ((3,) if len(alone) == 2 else (1, 3, 4)) else None
    return images


def _is_list_of_samples(batch: object) -> bool:
    """Whether a batch is a list of mappings, or of tuples that begin with an image, one for each sample."""
    if not isinstance(batch, tuple | list) or not batch:
        return False
    items = cast(tuple[object, ...] | list[object], batch)
    if all(isinstance(item, Mapping) for item in items):
        return True
    return all(isinstance(item, tuple | list) and len(item) > 1 and _is_image(cast(Any, item)[0]) for item in items)  # pyright: ignore[reportUnknownArgumentType]  # of the user's


def _is_image(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()


def _all_images(value: object) -> list[Tensor] | None:
    """The parts if each is one image, all of one number of channels."""
    if not isinstance(value, tuple | list) or not value:
        return None
    parts = list(cast(tuple[object, ...] | list[object], value))
    images = [part for part in parts if isinstance(part, Tensor) and _is_image(part)]
    return images if len(images) == len(parts) and len({len(image) for image in images}) == 1 else None


def _labels(batch: object) -> Tensor | None:
    labels: object = None
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[object, object], batch)
        labels = next((mapping[key] for key in LABEL_KEYS if key in mapping), None)
    elif isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        labels = items[1] if len(items) > 1 else None
    return labels if isinstance(labels, Tensor) else None


def _size(batch: object) -> int:
    rows = _images(batch)
    if rows is None and isinstance(batch, Mapping):
        held = cast(Mapping[object, object], batch).values()
        rows = next((value for value in held if isinstance(value, Tensor)), None)
    if rows is not None and rows.ndim:
        return rows.shape[0]
    if isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        if items and isinstance(items[0], Mapping) and not all(isinstance(item, Mapping) for item in items):
            return _size(cast(object, items[0]))  # inputs by name, and labels; all mappings would be one a sample
    return len(batch) if isinstance(batch, Sized) and not isinstance(batch, Tensor) else 1


def _mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        items = {key: _mapped(value, change) for key, value in cast(Mapping[Any, Any], batch).items()}
        if not isinstance(batch, MutableMapping):
            return items
        # A copy keeps what the class carries beside its items, the default of a defaultdict say.
        changed: MutableMapping[Any, Any] = copy.copy(cast(MutableMapping[Any, Any], batch))
        for key, value in items.items():
            changed[key] = value
        return changed
    if isinstance(batch, tuple | list):
        parts = [_mapped(value, change) for value in cast(list[Any], batch)]
        if isinstance(batch, list):
            return parts
        kind = cast(Any, type(cast(object, batch)))
        return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)
    return batch


def _describe(batch: object) -> str:
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        keys = ", ".join(map(repr, list(cast(Mapping[object, object], batch))[:12]))
        return f"a {kind} with the keys {keys}" if keys else f"an empty {kind}"
    if isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        return f"a {kind} whose first element is a {type(items[0]).__name__}" if items else f"an empty {kind}"
    return f"a {kind}"

"""What a batch is: a tensor, a tuple, or a mapping, as every loader has its own idea of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sized
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from truenorm.errors import InvalidInput, MissingFunction

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "input", "inputs", "x", "data")
"""Keys under which a mapping's images are looked for, in this order."""

LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")
"""Keys under which a mapping's classes are looked for, in this order."""

_Batch = TypeVar("_Batch")


def images_in(batch: object) -> Tensor:
    """The tensor that a model is to be given out of a batch.

    Args:
        batch: a tensor, a tuple or list whose first element is such a batch, or a mapping that
            holds a tensor under one of `IMAGE_KEYS`.

    Returns:
        The tensor itself, samples along its first dim; not a copy.

    Raises:
        InvalidInput: there is no tensor in those places.

    Example:
        >>> images_in((torch.ones(2, 3), torch.zeros(2))).shape
        torch.Size([2, 3])
        >>> images_in({"label": torch.zeros(2), "pixel_values": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
    """
    found = _find(batch)
    if found is None:
        raise MissingFunction(
            f"a batch is {_describe(batch)}, and no tensor of images was found in it",
            "forward",
        )
    return found


def has_images(batch: object) -> bool:
    """Would `images_in` find them?

    Example:
        >>> has_images({"audio": torch.ones(2)})
        False
    """
    return _find(batch) is not None


def labels_in(batch: object) -> Tensor | None:
    """The classes of a batch's samples: integers of shape (N,); None where there are none.

    Args:
        batch: a tuple or list whose second element they are, or a mapping that holds them under one of
            `LABEL_KEYS`.

    Example:
        >>> labels_in((torch.ones(2, 3), torch.tensor([0, 1])))
        tensor([0, 1])
    """
    found: object = None
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[object, object], batch)
        found = next((mapping[key] for key in LABEL_KEYS if key in mapping), None)
    elif isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        found = items[1] if len(items) > 1 else None
    if not isinstance(found, Tensor) or found.dtype.is_floating_point or found.ndim != 1:
        return None
    return found if len(found) == num_samples(batch) else None


def to_device(batch: _Batch, device: torch.device | str) -> _Batch:
    """The batch with every tensor in it on `device`; its shape and whatever is no tensor stay.

    Goes into tuples, named tuples, lists and mappings; the batch itself is not changed.

    Example:
        >>> to_device({"x": torch.ones(2), "name": "a"}, "meta")["x"].device
        device(type='meta')
    """
    return cast(_Batch, with_tensors(batch, lambda tensor: tensor.to(device)))


def batches_of(data: object, *, limit: int | None) -> Iterator[Any]:
    """One batch after the other, until `limit` samples have been given.

    A batch is given whole, so the last one may go beyond the limit. Where the samples of a batch
    cannot be counted by its images its `len` counts, and else it counts as one.

    Args:
        data: any iterable of batches, a DataLoader or a list say.
        limit: number of samples after which to stop, None for all.

    Raises:
        InvalidInput: `data` cannot be iterated over, is one batch or a data set of single samples
            (all said at the call), or gave no batch at all (said when it is first asked for one).

    Example:
        >>> [len(batch) for batch in batches_of([torch.ones(4, 2)] * 5, limit=8)]
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


def _counted(data: Iterable[Any], limit: int | None) -> Iterator[Any]:
    empty, seen = True, 0
    for batch in data:
        empty = False
        yield batch
        seen += num_samples(batch)
        if limit is not None and seen >= limit:
            return
    if empty:
        raise InvalidInput(
            f"data ({type(data).__name__}) gave no batches; is it empty, used up, or shorter than one batch?"
        )


def num_samples(batch: object) -> int:
    """How many samples a batch has: its images, else rows of a mapping's first tensor, else its `len`, else 1.

    Example:
        >>> num_samples((torch.ones(4, 2), torch.zeros(4)))
        4
    """
    images = _find(batch)
    if images is None and isinstance(batch, Mapping):
        held = cast(Mapping[object, object], batch).values()
        images = next((value for value in held if isinstance(value, Tensor)), None)
    if images is not None and images.ndim:
        return images.shape[0]
    return len(batch) if isinstance(batch, Sized) and not isinstance(batch, Tensor) else 1


def _find(batch: object) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        mapping = cast(Mapping[object, object], batch)
        held = (mapping[key] for key in IMAGE_KEYS if key in mapping)
        return next((value for value in held if isinstance(value, Tensor)), None)
    if isinstance(batch, tuple | list):
        items = cast(tuple[object, ...] | list[object], batch)
        return _find(items[0]) if items else None
    return None


def with_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor in it changed; its shape, its classes and whatever is no tensor stay.

    Example:
        >>> with_tensors({"x": torch.ones(2), "name": "a"}, lambda x: 2 * x)
        {'x': tensor([2., 2.]), 'name': 'a'}
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        items = {key: with_tensors(value, change) for key, value in cast(Mapping[Any, Any], batch).items()}
        if not isinstance(batch, MutableMapping):
            return items
        # A copy keeps what the class carries beside its items, the default of a defaultdict say.
        changed: MutableMapping[Any, Any] = copy.copy(cast(MutableMapping[Any, Any], batch))
        for key, value in items.items():
            changed[key] = value
        return changed
    if isinstance(batch, tuple | list):
        parts = [with_tensors(value, change) for value in cast(list[Any], batch)]
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

"""The valid positions of a batch: padding of sequences and images stays out of every moment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor

from truenorm.errors import InvalidInput, NotMeasurable

Mask = Callable[[Any], Tensor | Sequence[Tensor]]
"""`mask(batch)`: the valid positions of a batch, True where valid, as a boolean tensor of shape (B, L) or (B, H, W); or
several such tensors, one for each resolution of the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Valid:
    """The valid positions of one batch.

    Args:
        masks: boolean, one for each resolution; none: every position is valid.

    Example:
        >>> valid = Valid.of(torch.tensor([[1, 1, 0], [1, 0, 0]]))
        >>> valid.rows(torch.ones(2, 5, 3), 1, "norm").shape
        torch.Size([3, 5])
    """

    masks: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, given: object) -> "Valid":
        """What `mask(batch)` returned.

        Raises:
            InvalidInput: it is not a tensor of booleans (or of zeros and ones) or a sequence of such tensors, a mask
                has no valid position, or two masks of one shape differ.
        """
        parts = cast(Sequence[object], given) if isinstance(given, tuple | list) else [given]
        if not parts:
            raise InvalidInput("mask(batch) returned no mask; return one for each resolution of the network")
        masks = tuple(map(_boolean, parts))
        for one, other in combinations(masks, 2):
            if one.shape == other.shape and not torch.equal(one, other.to(one.device)):
                raise InvalidInput(f"mask(batch) returned two different masks of shape {tuple(one.shape)}")
        return cls(masks)

    def rows(self, values: Tensor, dim: int, layer: str) -> Tensor:
        """The values at valid positions, as rows of shape (n, C); all of them, (N, C, ...), where there is no mask.

        Args:
            values: a layer's input.
            dim: the dimension of its channels.
            layer: its name.

        Raises:
            NotMeasurable: no mask fits the positions of the input, or two masks fit in different ways.
        """
        mask = self._mask_of(values, dim, layer)
        if mask is None:
            return values if dim == 1 else values.movedim(dim, 1)
        return values.movedim(dim, -1)[mask]

    def _mask_of(self, values: Tensor, dim: int, layer: str) -> Tensor | None:
        """The mask of this input's positions, in their shape; None where all are valid."""
        if not self.masks:
            return None
        positions = values.movedim(dim, -1).shape[:-1]
        for mask in self.masks:
            if mask.shape == positions:
                return mask.to(values.device)
        if positions.numel() != len(values):
            raise self._fits_nowhere(values, positions, layer)
        flattened = self._flattened(values, len(values), layer)
        return None if flattened is None else flattened.to(values.device).reshape(positions)

    def _flattened(self, values: Tensor, size: int, layer: str) -> Tensor | None:
        """Of an input without positions beside its first dimension; None where its rows are packed or pooled."""
        flattened = [mask.flatten() for mask in self.masks if mask.numel() == size]
        packed = any(int(mask.sum()) == size for mask in self.masks)
        if not flattened:
            if packed or any(len(mask) == size for mask in self.masks):
                return None
            raise self._fits_nowhere(values, torch.Size([size]), layer)
        first, *others = flattened
        if not all(torch.equal(first, other) for other in others) or (packed and not bool(first.all())):
            raise NotMeasurable(
                f"layer {layer!r} was given shape {tuple(values.shape)}, which masks of the shapes {self._shapes()} "
                f"fit in different ways; let one of the masks have the shape ({size},)"
            )
        return first

    def _fits_nowhere(self, values: Tensor, positions: torch.Size, layer: str) -> NotMeasurable:
        return NotMeasurable(
            f"layer {layer!r} was given shape {tuple(values.shape)}, and mask(batch) returned no mask for its "
            f"positions {tuple(positions)}, only of shape {self._shapes()}; return one mask for each resolution of the "
            "network"
        )

    def _shapes(self) -> str:
        return ", ".join(str(tuple(mask.shape)) for mask in self.masks)


ALL = Valid()
"""Every position is valid."""


def valid_positions(mask: Mask | None, batch: Any) -> Valid:
    """The valid positions of a batch; all without a mask.

    Example:
        >>> valid_positions(lambda batch: batch != 0, torch.tensor([[5, 3, 0]])).masks
        (tensor([[ True,  True, False]]),)
    """
    return ALL if mask is None else Valid.of(mask(batch))


def _boolean(part: object) -> Tensor:
    if not isinstance(part, Tensor) or not part.ndim:
        what = "a tensor without dimensions" if isinstance(part, Tensor) else f"an object of type {type(part).__name__}"
        raise InvalidInput(f"mask(batch) returned {what}; expected a boolean tensor of shape (B, L), True where valid")
    mask = part.detach()
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InvalidInput(
                f"mask(batch) returned values of {str(mask.dtype).removeprefix('torch.')} other than 0 and 1; "
                "expected a boolean tensor, True where valid"
            )
        mask = mask == 1
    if mask.numel() and not bool(mask.any()):
        raise InvalidInput(
            f"mask(batch) returned a mask of shape {tuple(mask.shape)} without a valid position; expected True where a "
            "batch is valid (padding masks of attention often have True at padding)"
        )
    return mask

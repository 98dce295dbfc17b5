"""Under which names, and in which form, a layer keeps its statistics."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_OF = r"(running|moving|stored|ema|tracked|population|pop|global|inference)_?"
_MEAN = re.compile(rf"{_OF}(mean|avg|average)", re.IGNORECASE)
_VARIANCE = re.compile(rf"{_OF}(var|variance)", re.IGNORECASE)
_DEVIATION = re.compile(rf"{_OF}(std|sigma|stddev|deviation)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stored:
    """The buffers of a layer that hold one number per channel, by their names.

    Args:
        mean: the buffer of means; None where the layer stores none.
        spread: the buffer of variances or standard deviations.
        deviation: whether these are standard deviations.
        shape: of a buffer: (C,), or with dimensions of size 1 around C.
        dtype: of the buffer of spreads.

    Example:
        >>> Stored.of(nn.BatchNorm1d(2))
        Stored(mean='running_mean', spread='running_var', deviation=False, shape=torch.Size([2]), dtype=torch.float32)
        >>> Stored.of(nn.Linear(2, 2)) is None
        True
    """

    mean: str | None
    spread: str
    deviation: bool
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, layer: nn.Module) -> "Stored | None":
        """What the layer's own buffers are called; None if none of them is a variance by its name and form.

        Two variances in one layer (of parts, steps or domains) are not told apart: None.
        """
        buffers = layer._buffers  # pyright: ignore[reportPrivateUsage]  # its own alone
        held = {name: value for name, value in buffers.items() if value is not None and _is_per_channel(value)}
        spreads = [name for name in held if _VARIANCE.fullmatch(name) or _DEVIATION.fullmatch(name)]
        means = [name for name in held if _MEAN.fullmatch(name)]
        if len(spreads) != 1 or len(means) > 1:
            return None
        (spread,) = spreads
        shape = held[spread].shape
        if means and held[means[0]].shape != shape:
            return None
        deviation = _VARIANCE.fullmatch(spread) is None
        return cls(means[0] if means else None, spread, deviation, shape, held[spread].dtype)

    @property
    def plain(self) -> bool:
        """Whether names and form are torch's."""
        return (self.mean, self.spread) == ("running_mean", "running_var") and len(self.shape) == 1

    @property
    def num_channels(self) -> int:
        """C."""
        return self.shape.numel()

    def read(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Means and variances, of shape (C,): a copy. Means that are not stored are 0."""
        spread = getattr(layer, self.spread).detach().clone().flatten()
        mean = torch.zeros_like(spread) if self.mean is None else getattr(layer, self.mean).detach().clone().flatten()
        return mean, spread.square() if self.deviation else spread

    def tensors(self, mean: Tensor, var: Tensor) -> dict[str, Tensor]:
        """Means and variances of shape (C,) as the buffers hold them, by name; the type is that given.

        Example:
            >>> stored = Stored("moving_mean", "moving_std", True, torch.Size([1, 2, 1]), torch.float32)
            >>> stored.tensors(torch.zeros(2), torch.tensor([4.0, 9.0]))["moving_std"].flatten()
            tensor([2., 3.])
        """
        spread = var.clamp_min(0).sqrt() if self.deviation else var
        named = {} if self.mean is None else {self.mean: mean.reshape(self.shape)}
        return named | {self.spread: spread.reshape(self.shape)}


def _is_per_channel(value: Tensor) -> bool:
    if isinstance(value, nn.parameter.UninitializedBuffer):
        return False
    return value.ndim > 0 and not value.is_complex() and value.numel() == max(value.shape)

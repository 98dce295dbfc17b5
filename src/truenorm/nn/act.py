"""Batch norm with a dropout and an activation of its own, as timm's `BatchNormAct2d` has them."""

from functools import cache
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.kernels import Activation, activated
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, TrackedBatchNorm

_OURS = {ours.origin: ours for ours in (BatchNorm1d, BatchNorm2d, BatchNorm3d)}
_ACTIVATED = ("timm.layers.norm_act", "BatchNormAct2d.forward")
"""Named, not imported."""


class TrackedBatchNormAct(TrackedBatchNorm):
    """Batch norm, then the layer's own `drop` and `act`."""

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: Activation = "identity") -> Tensor:
        drop, act = self._modules["drop"], self._modules["act"]
        assert drop is not None and act is not None
        return activated(act(drop(super().forward(input))), residual, activation)


@cache
def tracked(origin: type[_BatchNorm]) -> type[TrackedBatchNorm] | None:
    """The class that is `origin` with our statistics; None where its forward is one that nobody knows.

    Instances are instances of `origin`, and keep everything it defines but the forward.

    Example:
        >>> from torch import nn
        >>> tracked(nn.BatchNorm2d) is BatchNorm2d
        True
    """
    if origin in _OURS:
        return _OURS[origin]
    if origin.forward is _BatchNorm.forward:
        base: type[TrackedBatchNorm] = TrackedBatchNorm
    elif (origin.forward.__module__, origin.forward.__qualname__) == _ACTIVATED:
        base = TrackedBatchNormAct
    else:
        return None

    def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
        return _empty, (origin,), self.__getstate__()

    # A class made at run time has no address to be found at again: pickles and copies name its origin.
    namespace = {"origin": origin, "__reduce_ex__": reduce, "__module__": __name__}
    cls: Any = type(origin.__name__, (base, origin), namespace)
    return cls


def _empty(origin: type[_BatchNorm]) -> Any:
    cls = tracked(origin)
    assert cls is not None
    return cls.__new__(cls)

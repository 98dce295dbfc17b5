"""The batch norms of a fused copy: ours, with torch's statistics where they were torch's.

Each class keeps the class that the layer had before in `before`, which `restore_layer` gives back.
"""

from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from truenorm.experimental.fusing.activation import activation_of, is_hooked
from truenorm.kernels import Activation, Epilogue, Tracking, activated
from truenorm.model.convert import our_class
from truenorm.nn import batchnorm as ours
from truenorm.nn.act import TrackedBatchNormAct, tracked
from truenorm.nn.batchnorm import TrackedBatchNorm


class BatchNorm1d(ours.BatchNorm1d):
    """A `torch.nn.BatchNorm1d` that takes a residual and an activation."""

    tracking: Tracking = "torch"
    before = nn.BatchNorm1d


class BatchNorm2d(ours.BatchNorm2d):
    """A `torch.nn.BatchNorm2d` that takes a residual and an activation."""

    tracking: Tracking = "torch"
    before = nn.BatchNorm2d


class BatchNorm3d(ours.BatchNorm3d):
    """A `torch.nn.BatchNorm3d` that takes a residual and an activation."""

    tracking: Tracking = "torch"
    before = nn.BatchNorm3d


class OneCallBatchNormAct(TrackedBatchNormAct):
    """Batch norm, then the layer's own `drop` and `act`: one call where `drop` does nothing and `act` is known."""

    before: ClassVar[type[nn.Module]]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # a fused forward gives more than the input
        self, input: Tensor, residual: Tensor | None = None, activation: Activation = "identity"
    ) -> Tensor:
        own = self.in_one_call()
        if own == "identity":
            return TrackedBatchNorm.forward(self, input, residual, activation)
        y = super().forward(input) if own is None else TrackedBatchNorm.forward(self, input, activation=own)
        return activated(y, Epilogue(residual, activation))

    def in_one_call(self) -> Activation | None:
        """The activation that batch norm applies; None: `drop` and `act` are called."""
        drop, act = self.drop_and_act()
        if activation_of(drop) != "identity" or is_hooked(drop) or is_hooked(act):
            return None
        return activation_of(act)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A class made at run time cannot be found by its name: pickles and copies name timm's.
        return _empty, (self.origin, self.before is not self.origin), self.__getstate__()


_FUSED = {fused.before: fused for fused in (BatchNorm1d, BatchNorm2d, BatchNorm3d)}


def prepare_layer(layer: nn.Module) -> str | None:
    """Give a batch norm the class that it has in a fused copy; in place.

    Returns:
        why the layer keeps its class; None where it does not matter or it was exchanged.

    Example:
        >>> layer = nn.BatchNorm1d(3)
        >>> prepare_layer(layer), layer.tracking, prepare_layer(nn.SyncBatchNorm(3))
        (None, 'torch', 'synchronised batch norm cannot be fused')
    """
    if isinstance(layer, nn.SyncBatchNorm):
        return "synchronised batch norm cannot be fused"
    if isinstance(layer, OneCallBatchNormAct):
        return None
    if isinstance(layer, TrackedBatchNormAct):
        layer.__class__ = _one_call(layer.origin, was_ours=True)
    elif not isinstance(layer, TrackedBatchNorm):
        cls = our_class(layer)
        if isinstance(cls, str):
            return cls
        before = type(layer)
        layer.__class__ = _FUSED[before] if before in _FUSED else _one_call(before, was_ours=False)
    return None


def restore_layer(layer: nn.Module) -> None:
    """Undo `prepare_layer`; in place. Other modules stay as they are.

    Example:
        >>> layer = nn.BatchNorm1d(3)
        >>> _ = prepare_layer(layer)
        >>> restore_layer(layer)
        >>> type(layer) is nn.BatchNorm1d
        True
    """
    before = getattr(type(layer), "before", None)
    if isinstance(layer, TrackedBatchNorm) and before is not None:
        module: Any = layer  # the checker knows it as what it no longer is
        module.__class__ = before
        if not isinstance(module, TrackedBatchNorm):
            module.__dict__.pop("tracking", None)


@cache
def _one_call(origin: type[nn.Module], *, was_ours: bool) -> type[OneCallBatchNormAct]:
    """The variant in one call of timm's `BatchNormAct2d`, or of our class for it."""
    base: Any = tracked(origin)
    namespace = {"before": base} if was_ours else {"before": origin, "tracking": "torch"}
    cls: Any = type(origin.__name__, (OneCallBatchNormAct, base), {**namespace, "__module__": __name__})
    return cls


def _empty(origin: type[nn.Module], was_ours: bool) -> Any:
    cls = _one_call(origin, was_ours=was_ours)
    return cls.__new__(cls)

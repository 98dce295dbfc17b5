"""The batch norms of a fused copy: ours, with torch's statistics where they were torch's."""

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from truenorm.experimental.fusing.activation import activation_of, is_hooked
from truenorm.kernels import Activation, Epilogue, activated
from truenorm.model.convert import our_class
from truenorm.nn.act import TrackedBatchNormAct, tracked
from truenorm.nn.batchnorm import TrackedBatchNorm


class PreparedBatchNorm(TrackedBatchNorm):
    """A batch norm that `restore_layer` gives back the class that it had `before`. Copies and pickles are prepared."""

    before: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return empty, (_prepared, self.origin, self.before is not self.origin), self.__getstate__()


class OneCallBatchNormAct(PreparedBatchNorm, TrackedBatchNormAct):
    """Batch norm, then the layer's own `drop` and `act`: one call where `drop` does nothing and `act` is known."""

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
    if isinstance(layer, TrackedBatchNormAct) and not isinstance(layer, PreparedBatchNorm):
        layer.__class__ = _prepared(layer.origin, True)
    elif not isinstance(layer, TrackedBatchNorm):
        cls = our_class(layer)
        if isinstance(cls, str):
            return cls
        layer.__class__ = _prepared(type(layer), False)
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
    if isinstance(layer, PreparedBatchNorm):
        module: Any = layer  # the checker knows it as what it no longer is
        module.__class__ = layer.before
        if not isinstance(module, TrackedBatchNorm):
            module.__dict__.pop("tracking", None)


@cache
def _prepared(origin: type[nn.Module], was_ours: bool) -> Any:
    """The variant of our class for torch's batch norm or timm's `BatchNormAct2d`."""
    base: Any = tracked(origin)
    kind = OneCallBatchNormAct if issubclass(base, TrackedBatchNormAct) else PreparedBatchNorm
    namespace = {"before": base} if was_ours else {"before": origin, "tracking": "torch"}
    return type(origin.__name__, (kind, base), {**namespace, "__module__": __name__})


def empty(make: Callable[..., Any], *arguments: Any) -> Any:
    """An instance without attributes, for copies and pickles: a class made at run time cannot be found by its name.

    Example:
        >>> type(empty(_prepared, nn.BatchNorm1d, False)) is _prepared(nn.BatchNorm1d, False)
        True
    """
    cls = make(*arguments)
    return cls.__new__(cls)

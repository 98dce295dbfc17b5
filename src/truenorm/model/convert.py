"""Exchange the norms of a network, in place: the modules stay the same objects, only their class changes.

So nothing can be forgotten: parameters and buffers, eps, momentum, mode, hooks, `requires_grad`, sharing
and whatever else somebody hung onto a module are simply left where they are.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.layers import batch_norms
from truenorm.nn.act import tracked
from truenorm.nn.batchfree import BatchFreeNorm, groups_of_16
from truenorm.nn.batchnorm import TrackedBatchNorm

Target = Literal["truenorm", "torch", "sync", "group", "layer", "instance", "bn-bfn"]

_TIMM = "timm.layers.norm_act"


def convert(model: nn.Module, to: Target = "truenorm") -> nn.Module:
    """Exchange the batch norms of a model, in place.

    - `truenorm`: our layers (`nn.BatchNorm1d`, `2d`, `3d`): the same training, statistics that are right.
      Statistics for which no batch was counted, but which are not 0 and 1, count as long trained.
    - `torch`: back again; with `truenorm` a lossless round trip. Do this before tools that know torch's
      classes only (fx's `fuse`, `convert_sync_batchnorm`).
    - `sync`: torch's SyncBatchNorm (timm's where timm's was), over the default group; `torch` leads back.
    - `group`, `layer`, `instance`: batch-free, in groups of about 16 channels, of all, of one. The running
      statistics are dropped: these need none, and there is no way back.
    - `bn-bfn`: every second norm, in the order of registration, becomes batch-free (`layer`).

    Only classes whose forward is known are exchanged: torch's, subclasses that keep torch's forward, timm's
    `BatchNormAct2d`. Others are left as they are, and a warning names them. Layers in evaluation mode
    (frozen) stay so.

    Args:
        model: the network; changed in place.
        to: what its batch norms become.

    Returns:
        the model itself.

    Raises:
        UnknownName: no such target.
        InvalidInput: there is no batch norm; a lazy one has no shape yet; `group` and the like for a norm
            that holds its activation. Nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> convert(net)[1]
        BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, tracking='pooled')
        >>> type(convert(net, to="torch")[1]) is nn.BatchNorm1d
        True
    """
    if to not in get_args(Target):
        raise UnknownName("target", to, get_args(Target))
    layers = batch_norms(model, tracking=False)
    exchange = _EXCHANGES[to]
    changes: list[tuple[nn.Module, Callable[[], None]]] = []
    left: dict[str, str] = {}
    for number, (name, layer) in enumerate(layers.items()):
        change = exchange(number, name, layer)
        if isinstance(change, str):
            left[name] = change
        elif change is not None:
            changes.append((layer, change))
    for _, change in changes:
        change()
    if left:
        named = "; ".join(f"{name} ({why})" for name, why in left.items())
        warnings.warn(f"left as they are: {named}", UserWarning, stacklevel=2)
    return model


_Change = Callable[[], None] | str | None
"""What to do, why it is not done, or nothing because nothing is to be done."""


def _to_truenorm(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, TrackedBatchNorm):
        return None
    if not isinstance(layer, _BatchNorm):
        return f"{type(layer).__name__} is not a batch norm of torch's"
    origin = layer.__dict__.get(_BEFORE_SYNC, type(layer))
    if _has_own_forward(layer):
        return "its forward was replaced on the instance"
    cls = tracked(origin)
    if cls is None:
        if isinstance(layer, nn.SyncBatchNorm):
            return "synchronised batch norm keeps torch's statistics; watch() gives it others"
        return f"{origin.__name__} has a forward of its own"

    def change() -> None:
        _leave_sync(layer)
        layer.__class__ = cls
        assert isinstance(layer, TrackedBatchNorm)
        layer.tracking = "pooled"
        layer.trust()

    return change


def _to_torch(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, TrackedBatchNorm):
        origin = type(layer).origin
    elif _BEFORE_SYNC in layer.__dict__:
        origin = layer.__dict__[_BEFORE_SYNC]
    elif isinstance(layer, nn.SyncBatchNorm):
        return "it does not tell of how many dimensions the batch norm was before it was synchronised"
    else:
        return None

    def change() -> None:
        _leave_sync(layer)
        layer.__dict__.pop("tracking", None)
        module: Any = layer  # the checker knows it as what it no longer is
        module.__class__ = origin

    return change


def _to_sync(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, nn.SyncBatchNorm):
        return None
    origin = type(layer).origin if isinstance(layer, TrackedBatchNorm) else type(layer)
    if not isinstance(layer, _BatchNorm) or _has_own_forward(layer):
        return f"{type(layer).__name__} has a forward of its own"
    if origin.forward is _BatchNorm.forward:
        cls: Any = nn.SyncBatchNorm
    elif origin is getattr(sys.modules.get(_TIMM), "BatchNormAct2d", None):
        cls = sys.modules[_TIMM].SyncBatchNormAct
    else:
        return f"{origin.__name__} has a forward of its own"

    def change() -> None:
        layer.__dict__.pop("tracking", None)
        layer.__dict__[_BEFORE_SYNC] = origin
        layer.__dict__["process_group"] = None
        layer.__class__ = cls

    return change


def _to_batch_free(groups: Callable[[int], int], *, every: int = 1) -> Callable[[int, str, nn.Module], _Change]:
    batch_free: Any = BatchFreeNorm

    def exchange(number: int, name: str, layer: nn.Module) -> _Change:
        if number % every != every - 1:
            return None
        if not isinstance(layer, _BatchNorm):
            return f"{type(layer).__name__} is not a batch norm of torch's"
        if _has_own_forward(layer):
            return "its forward was replaced on the instance"
        if next(layer.children(), None) is not None:
            raise InvalidInput(
                f"layer {name!r} is a {type(layer).__name__} that holds its activation, which a batch-free norm "
                "would lose; nothing was converted"
            )

        def change() -> None:
            _leave_sync(layer)
            for key in ("tracking", "momentum", "track_running_stats", "num_features"):
                layer.__dict__.pop(key, None)
            for key in ("running_mean", "running_var", "num_batches_tracked"):
                layer._buffers.pop(key, None)  # pyright: ignore[reportPrivateUsage]  # delattr would look elsewhere too
            layer.__dict__["num_channels"] = channels
            layer.__dict__["num_groups"] = groups(channels)
            layer.__class__ = batch_free

        channels = layer.num_features
        return change

    return exchange


_EXCHANGES: dict[str, Callable[[int, str, nn.Module], _Change]] = {
    "truenorm": _to_truenorm,
    "torch": _to_torch,
    "sync": _to_sync,
    "group": _to_batch_free(groups_of_16),
    "layer": _to_batch_free(lambda channels: 1),
    "instance": _to_batch_free(lambda channels: channels),
    "bn-bfn": _to_batch_free(lambda channels: 1, every=2),
}

_BEFORE_SYNC = "class_before_sync"
"""Where a synchronised layer remembers what it was."""


def _leave_sync(layer: nn.Module) -> None:
    for key in (_BEFORE_SYNC, "process_group"):
        layer.__dict__.pop(key, None)


def _has_own_forward(layer: nn.Module) -> bool:
    return "forward" in layer.__dict__

"""Exchange the norms of a network, in place: the modules stay the same objects, only their class changes.

So nothing can be lost: parameters and buffers, eps, momentum, mode, hooks, `requires_grad`, sharing and other
attributes are kept.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's
from torch.nn.utils.parametrize import is_parametrized

from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.layers import batch_norms, refuse_programs
from truenorm.nn.act import BatchNormAct, tracked
from truenorm.nn.batchfree import BatchFreeNorm, groups_of_16
from truenorm.nn.batchnorm import TrackedBatchNorm, Tracking

Target = Literal["truenorm", "torch", "sync", "group", "layer", "instance", "bn-bfn"]

_TIMM = "timm.layers.norm_act"


def convert(model: nn.Module, to: Target = "truenorm", *, tracking: Tracking | None = None) -> nn.Module:
    """Exchange the batch norms of a model, in place.

    - `truenorm`: our layers (`nn.BatchNorm1d`, `2d`, `3d`): the same training, statistics that are right.
      Statistics for which no batch was counted, but which are not 0 and 1, count as long trained.
    - `torch`: back again; with `truenorm` a lossless round trip. Do this before tools that know torch's
      classes only (fx's `fuse`, `convert_sync_batchnorm`).
    - `sync`: torch's SyncBatchNorm (timm's where timm's was), over the default group; `torch` leads back.
    - `group`, `layer`, `instance`: batch-free, in groups of about 16 channels, of all, of one. The running
      statistics are dropped: these need none, and there is no way back.
    - `bn-bfn`: every second norm, in the order of registration, becomes batch-free (`layer`).

    `truenorm` knows torch's classes and timm's `BatchNormAct2d`. Other layers, subclasses of these among them, are left
    as they are, and a warning names them, why, and what to do. Layers in evaluation mode (frozen) stay so.

    Args:
        model: the network, changed in place.
        to: what its batch norms become.
        tracking: with `truenorm`, how all of them keep statistics, those that are ours already among them (see
            `nn.BatchNorm2d`); None: pooled, and those that are ours stay as they are.

    Returns:
        the model itself.

    Raises:
        UnknownName: no such target, no such tracking.
        InvalidInput: there is no batch norm; a lazy one has no shape yet; or `group` and the like for a norm
            that holds its activation; or `tracking` for other layers than ours. Nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> convert(net)[1]
        BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, tracking='pooled')
        >>> type(convert(net, to="torch")[1]) is nn.BatchNorm1d
        True
    """
    if to not in get_args(Target):
        raise UnknownName("target", to, get_args(Target))
    if tracking is not None and tracking not in get_args(Tracking):
        raise UnknownName("tracking", tracking, get_args(Tracking))
    if tracking is not None and to != "truenorm":
        raise InvalidInput(f"tracking={tracking!r} is for to='truenorm'; {to!r} layers have no choice of it")
    exchange = partial(_to_truenorm, tracking) if to == "truenorm" else _EXCHANGES[to]
    refuse_programs(model)
    changes: list[Callable[[], object]] = []
    reasons: dict[str, str] = {}
    for number, (name, layer) in enumerate(batch_norms(model, tracking=False).items()):
        change = exchange(number, name, layer)
        if isinstance(change, str):
            reasons[name] = change
        elif change is not None:
            changes.append(change)
    for change in changes:  # once none has raised: all or nothing
        change()
    if reasons:
        warnings.warn(f"left as they are: {names_by_reason(reasons, model)}", UserWarning, stacklevel=2)
    return model


def names_by_reason(reasons: Mapping[str, str], model: nn.Module) -> str:
    """The names of layers, grouped by the reason of each; of many the first few.

    Example:
        >>> names_by_reason({"0": "it is frozen", "2": "it is frozen", "": "it is shared"}, nn.ReLU())
        '0, 2 (it is frozen); ReLU (it is shared)'
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name or type(model).__name__)
    return "; ".join(f"{_first_few(group)} ({reason})" for reason, group in names.items())


def _first_few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


_SHOWN = 8

_Change = Callable[[], object] | str | None
"""The change, or the reason why the layer stays as it is, or None because it is what it is to become."""


def _to_truenorm(tracking: Tracking | None, number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, TrackedBatchNorm):
        return None if tracking in (None, layer.tracking) else partial(layer.track_by, tracking)
    cls = our_class(layer)
    if isinstance(cls, str):
        return cls

    def change() -> None:
        _forget(layer)
        layer.__class__ = cls
        assert isinstance(layer, TrackedBatchNorm)
        layer.track_by(tracking or "pooled")
        layer.trust()

    return change


def our_class(layer: nn.Module) -> type[TrackedBatchNorm] | str:
    """The class that makes a batch norm ours; or why there is none, and what to do.

    Example:
        >>> our_class(nn.BatchNorm1d(2)).__module__, our_class(nn.GroupNorm(1, 2))
        ('truenorm.nn.batchnorm', "GroupNorm is not a batch norm of torch's")
    """
    origin = layer.__dict__.get(_BEFORE_SYNC, type(layer))
    if not issubclass(origin, _BatchNorm):
        return f"{origin.__name__} is not a batch norm of torch's"
    if _has_own_forward(layer):
        return "its forward was replaced on the instance"
    cls = tracked(origin)
    if cls is not None:
        return cls
    if isinstance(layer, nn.SyncBatchNorm):
        return "synchronised batch norm keeps torch's statistics; watch() gives it others"
    if is_parametrized(layer):
        return "a parametrization gave it a class of its own; convert it before it is parametrized"
    if origin.forward is not _BatchNorm.forward:
        return f"{origin.__name__} has a forward of its own"
    return f"{origin.__name__} is a subclass of torch's; derive it from truenorm.nn.{_dimensions(origin)}"


def _dimensions(origin: type[nn.Module]) -> str:
    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return next((base.__name__ for base in known if issubclass(origin, base)), "BatchNorm1d, 2d or 3d")


def _to_torch(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, BatchNormAct):
        return "it holds its activation, which torch's batch norm would lose"
    if isinstance(layer, TrackedBatchNorm):
        if not _is_ours(layer):
            return f"{type(layer).__name__} is a subclass of truenorm's, which torch's batch norm cannot stand for"
        origin = type(layer).origin
    elif _BEFORE_SYNC in layer.__dict__:
        origin = layer.__dict__[_BEFORE_SYNC]
    elif isinstance(layer, nn.SyncBatchNorm):
        return "it does not tell of how many dimensions the batch norm was before it was synchronised"
    else:
        return None

    def change() -> None:
        _forget(layer)
        module: Any = layer  # the checker knows it as what it no longer is
        module.__class__ = origin

    return change


def _to_sync(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, nn.SyncBatchNorm):
        return None
    if isinstance(layer, BatchNormAct):
        return "it holds its activation, which torch's synchronised batch norm would lose"
    origin = type(layer).origin if isinstance(layer, TrackedBatchNorm) else type(layer)
    own_subclass = isinstance(layer, TrackedBatchNorm) and not _is_ours(layer)
    if not isinstance(layer, _BatchNorm) or _has_own_forward(layer) or own_subclass:
        return f"{type(layer).__name__} has a forward of its own"
    if origin.forward is _BatchNorm.forward:
        cls: Any = nn.SyncBatchNorm
    elif origin is getattr(sys.modules.get(_TIMM), "BatchNormAct2d", None):
        cls = sys.modules[_TIMM].SyncBatchNormAct
    else:
        return f"{origin.__name__} has a forward of its own"

    def change() -> None:
        _forget(layer)
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
        if isinstance(layer, BatchNormAct) or next(layer.children(), None) is not None:
            raise InvalidInput(
                f"layer {name!r} is a {type(layer).__name__} that holds its activation, which a batch-free norm "
                "would lose; nothing was converted"
            )
        if type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward) and not _is_ours(layer):
            return f"{type(layer).__name__} has a forward of its own"

        def change() -> None:
            _forget(layer)
            for key in ("momentum", "track_running_stats", "num_features"):
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
    "torch": _to_torch,
    "sync": _to_sync,
    "group": _to_batch_free(groups_of_16),
    "layer": _to_batch_free(lambda channels: 1),
    "instance": _to_batch_free(lambda channels: channels),
    "bn-bfn": _to_batch_free(lambda channels: 1, every=2),
}

_BEFORE_SYNC = "class_before_sync"
"""Where a synchronised layer remembers what it was."""


def _forget(layer: nn.Module) -> None:
    """What only a layer of ours, or a synchronised one, has."""
    if isinstance(layer, TrackedBatchNorm):
        layer.track_by("torch")  # keeps nothing beside torch's buffers
    for key in (_BEFORE_SYNC, "process_group", "tracking"):
        layer.__dict__.pop(key, None)


def _is_ours(layer: nn.Module) -> bool:
    """Is the layer's class one of this package, and not a user's subclass, which may do more?"""
    return type(layer).__module__.partition(".")[0] == "truenorm"


def _has_own_forward(layer: nn.Module) -> bool:
    return "forward" in layer.__dict__

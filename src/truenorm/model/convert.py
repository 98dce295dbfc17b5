"""Exchange the norms of a network, in place: the modules stay the same objects, only their class changes.

So nothing can be forgotten: parameters and buffers, eps, momentum, mode, hooks, `requires_grad`, sharing
and whatever else somebody hung onto a module are simply left where they are.
"""

import copy
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.errors import InvalidInput, UnknownName
from truenorm.model import alike, fuse
from truenorm.model.layers import batch_norms, refuse_programs, unwrap
from truenorm.nn.act import BatchNormAct, TrackedBatchNormAct, tracked
from truenorm.nn.batchfree import BatchFreeNorm, groups_of_16
from truenorm.nn.batchnorm import TrackedBatchNorm

Target = Literal["truenorm", "torch", "sync", "group", "layer", "instance", "bn-bfn", "fused"]

_TIMM = "timm.layers.norm_act"


def convert(
    model: nn.Module, to: Target = "truenorm", *, examples: Tensor | tuple[Any, ...] | None = None
) -> nn.Module:
    """Exchange the batch norms of a model, in place; or give a copy in which they are fused.

    - `truenorm`: our layers (`nn.BatchNorm1d`, `2d`, `3d`): the same training, statistics that are right.
      Statistics for which no batch was counted, but which are not 0 and 1, count as long trained.
    - `torch`: back again; with `truenorm` a lossless round trip. Do this before tools that know torch's
      classes only (fx's `fuse`, `convert_sync_batchnorm`).
    - `sync`: torch's SyncBatchNorm (timm's where timm's was), over the default group; `torch` leads back.
    - `group`, `layer`, `instance`: batch-free, in groups of about 16 channels, of all, of one. The running
      statistics are dropped: these need none, and there is no way back.
    - `bn-bfn`: every second norm, in the order of registration, becomes batch-free (`layer`).
    - `fused`: a copy, equal in training and evaluation, in which batch norm → addition → activation is one call
      (either of the two may be missing), and so one sweep over memory where kernels can. The model given stays as it
      is, and so does an optimizer made for it. The batch norms of the copy are ours, with torch's statistics where they
      were torch's. The state dict keeps its keys; copies and pickles are fused too; the other targets undo it. See
      `docs/layers.md`.

    Only classes whose forward is known are exchanged: torch's, subclasses that keep torch's forward, timm's
    `BatchNormAct2d`. Others are left as they are, and a warning names them, as it does places that cannot be
    fused, and why. Layers in evaluation mode (frozen) stay so.

    Args:
        model: the network; changed in place unless it is to be fused.
        to: what its batch norms become.
        examples: of `fused` alone: an input, or a tuple of what the model is called with. Copies of the model and of
            the fused one are run on them, in evaluation and in training, and compared.

    Returns:
        the model itself; its copy where it is fused (of the network inside `torch.compile` and data parallelism).

    Raises:
        UnknownName: no such target.
        InvalidInput: there is no batch norm; a lazy one has no shape yet; `group` and the like for a norm
            that holds its activation; nothing that could be fused, or the fused copy does something else on the
            examples. Nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> convert(net)[1]
        BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, tracking='pooled')
        >>> type(convert(net, to="torch")[1]) is nn.BatchNorm1d
        True
    """
    if to not in get_args(Target):
        raise UnknownName("target", to, get_args(Target))
    if examples is not None and to != "fused":
        raise InvalidInput(f"examples are for to='fused', which tries the copy on them; to={to!r} takes none")
    refuse_programs(model)
    model, left = _fused(unwrap(model), examples) if to == "fused" else (model, _exchange(model, to))
    if left:
        warnings.warn(f"left as they are: {_in_words(left, model)}", UserWarning, stacklevel=2)
    return model


def _fused(model: nn.Module, examples: Tensor | tuple[Any, ...] | None) -> tuple[nn.Module, dict[str, str]]:
    """A fused copy that does the same on the examples; what was left, and why."""
    batch_norms(model, tracking=False)  # there are some, and none is lazy, which cannot be copied
    copied = copy.deepcopy(model)
    left = _exchange(copied, "fused") | fuse.fuse(copied)
    if not fuse.places(copied):
        reasons = (
            f": {_in_words(left, copied)}" if left else ", for no addition or activation that is known follows one"
        )
        raise InvalidInput(f"no batch norm of {type(model).__name__} can be fused with what follows it{reasons}")
    if examples is not None:
        off = alike.difference(model, copied, examples if isinstance(examples, tuple) else (examples,))
        if off is not None:
            raise InvalidInput(
                f"the fused copy of {type(model).__name__} does something else than the model: {off}; "
                "nothing was returned, so go on with the model as it is"
            )
    return copied, left


def _exchange(model: nn.Module, to: Target) -> dict[str, str]:
    """Change every layer, or none where one cannot be; what was left, and why."""
    changes: list[Callable[[], object]] = []
    left: dict[str, str] = {}
    for number, (name, layer) in enumerate(batch_norms(model, tracking=False).items()):
        change = _EXCHANGES[to](number, name, layer)
        if isinstance(change, str):
            left[name] = change
        elif change is not None:
            changes.append(change)
    if to != "fused":
        changes += [partial(fuse.unfuse, owner) for owner in model.modules() if isinstance(owner, fuse.Fused)]
    for change in changes:
        change()
    return left


def _in_words(left: dict[str, str], model: nn.Module) -> str:
    """Names by reason; of many the first few."""
    reasons: dict[str, list[str]] = {}
    for name, why in left.items():
        reasons.setdefault(why, []).append(name or type(model).__name__)
    return "; ".join(f"{_some(names)} ({why})" for why, names in reasons.items())


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


_SHOWN = 8

_Change = Callable[[], object] | str | None
"""What to do, why it is not done, or nothing because nothing is to be done."""


def _to_truenorm(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, TrackedBatchNorm) and _BY_FUSING not in layer.__dict__:
        return partial(layer.__dict__.pop, "fuses", None)
    cls = _ours(layer)
    if isinstance(cls, str):
        return cls

    def change() -> None:
        _forget(layer)
        layer.__class__ = cls
        assert isinstance(layer, TrackedBatchNorm)
        layer.tracking = "pooled"
        layer.trust()

    return change


def _to_fused(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, nn.SyncBatchNorm):
        return "synchronised batch norm is a sweep of its own"
    cls = type(layer) if isinstance(layer, TrackedBatchNorm) else _ours(layer)
    if isinstance(cls, str):
        return cls

    def change() -> None:
        if not isinstance(layer, TrackedBatchNorm):
            layer.__class__ = cls
            layer.__dict__ |= {_BY_FUSING: True, "tracking": "torch"}
        if isinstance(layer, TrackedBatchNormAct):
            layer.fuses = True

    return change


def _ours(layer: nn.Module) -> type[TrackedBatchNorm] | str:
    """The class that makes the layer ours; or why there is none."""
    if not isinstance(layer, _BatchNorm):
        return f"{type(layer).__name__} is not a batch norm of torch's"
    if _has_own_forward(layer):
        return "its forward was replaced on the instance"
    origin = type(layer).origin if isinstance(layer, TrackedBatchNorm) else type(layer)
    cls = tracked(layer.__dict__.get(_BEFORE_SYNC, origin))
    if cls is None and isinstance(layer, nn.SyncBatchNorm):
        return "synchronised batch norm keeps torch's statistics; watch() gives it others"
    return cls or f"{origin.__name__} has a forward of its own"


def _to_torch(number: int, name: str, layer: nn.Module) -> _Change:
    if isinstance(layer, BatchNormAct):
        return "it holds its activation, which torch's batch norm would lose"
    if isinstance(layer, TrackedBatchNorm):
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
    if not isinstance(layer, _BatchNorm) or _has_own_forward(layer):
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
    "truenorm": _to_truenorm,
    "torch": _to_torch,
    "sync": _to_sync,
    "group": _to_batch_free(groups_of_16),
    "layer": _to_batch_free(lambda channels: 1),
    "instance": _to_batch_free(lambda channels: channels),
    "bn-bfn": _to_batch_free(lambda channels: 1, every=2),
    "fused": _to_fused,
}

_BEFORE_SYNC = "class_before_sync"
"""Where a synchronised layer remembers what it was."""

_BY_FUSING = "ours_by_fusing"
"""Where a layer of ours remembers that it was torch's until it was fused."""


def _forget(layer: nn.Module) -> None:
    """What only a layer of ours, or a synchronised one, has."""
    for key in (_BEFORE_SYNC, "process_group", "tracking", "fuses", _BY_FUSING):
        layer.__dict__.pop(key, None)


def _has_own_forward(layer: nn.Module) -> bool:
    return "forward" in layer.__dict__

"""Swap a layer's buffers for scratch buffers during one forward, so that torch writes the batch's moments into them.

With momentum 1 torch writes exactly the batch's mean and unbiased variance: no second reduction over the
activations is needed, and outputs and gradients are those of the unwatched layer.

This requires a forward that writes its buffers in training and never reads them. Other layers (batch renorm reads
them, a frozen norm divides by them, a user's own may replace them) keep their buffers, and their input is measured
by a second reduction. So is that of every layer where a mask leaves positions out.
"""

import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]  # torch's own way to the lazy decorator
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's
from torch.utils.hooks import RemovableHandle

from truenorm.errors import InvalidInput, NotMeasurable
from truenorm.model.layers import stored_by
from truenorm.nn.batchnorm import TrackedBatchNorm

# Forwards that only pass their buffers to torch's batch norm, with the momentum of the attribute; truenorm's own do,
# too. timm's are named, not imported.
_SWAPPABLE = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_SWAPPABLE_NAMES = (
    ("timm.layers.norm_act", "BatchNormAct2d.forward"),
    ("timm.layers.norm_act", "SyncBatchNormAct.forward"),
)
_MAX_CHECKS = 8
"""Training forwards after which buffers that have not changed are assumed never to change."""


class MomentSink(Protocol):
    """What receives the moments of layers."""

    def slot(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Buffers for the moments of this layer's next batch (mean, unbiased variance); None to skip the batch."""
        ...

    def receive(self, index: int, count: int, momentum: float | None) -> None:
        """The slot holds the moments of `count` values per channel; `momentum` is the layer's own.

        The layer has not updated its own buffers: the sink does.
        """
        ...

    def record(self, index: int, count: int, momentum: float | None) -> None:
        """As `receive`, of a layer that has updated its own buffers; momentum 0 where it is not known to count."""
        ...

    def valid_rows(self, name: str, values: Tensor, dim: int) -> Tensor:
        """The values at valid positions of a masked layer's input, of shape (n, C) or, where all are, (N, C, ...)."""
        ...


class ScratchBuffers:
    """The hooks of one layer. Copies and pickles of the model carry hooks that do nothing.

    Args:
        sink: receives the moments.
        index, name: of the layer.
        layer: the module.
        masked: not all of its input counts, so that torch cannot write the moments.
    """

    def __init__(self, sink: MomentSink, index: int, name: str, layer: nn.Module, *, masked: bool = False) -> None:
        self._sink = sink
        self._index = index
        self._name = name
        self._layer = layer
        self._own: tuple[dict[str, Tensor | None], dict[str, Any]] | None = None
        self._slot: tuple[Tensor, Tensor] | None = None
        stored = stored_by(layer)
        self._num_channels = stored.num_channels
        self._spread = stored.spread
        self._masked = masked
        self._as_torch = is_swappable(layer)
        self._swappable = self._as_torch and not masked
        self._attributes: dict[str, Any] = {"momentum": 1.0}
        self._swapped = ("running_mean", "running_var")
        if isinstance(layer, TrackedBatchNorm):
            # torch writes the scratch buffers and counts nothing: the layer updates its statistics afterwards.
            self._attributes["tracking"] = "torch"
            self._swapped += ("num_batches_tracked",)
        self._num_ranks = _num_ranks(layer)
        # Whether a layer of another make tracks batches is not known until its buffers change.
        self._tracks = self._as_torch
        self._count = 0
        self.reached = False
        self._checks = 0
        self._before: Tensor | None = None
        self._handles: list[RemovableHandle] = [
            layer.register_forward_pre_hook(Hook(self.swap_in)),  # pyright: ignore[reportArgumentType]  # disable() hides the signature
            # Prepended, so that the user's hooks see the layer's own buffers, as without a watch.
            layer.register_forward_hook(Hook(self.swap_out), prepend=True, always_call=True),  # pyright: ignore[reportArgumentType]  # likewise
        ]

    def close(self) -> None:
        """Restore the layer's own buffers and remove the hooks."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def restore(self) -> None:
        """Restore the layer's own buffers: after an interrupted forward (Ctrl-C) its hook has not done it."""
        if self._own is not None:
            buffers, attributes = self._own
            self._layer._buffers.update(buffers)  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
            self._layer.__dict__.update(attributes)
            self._own = None

    def swap_in(self, layer: nn.Module, inputs: tuple[Any, ...], _: None) -> None:
        if layer is not self._layer:
            return  # a copy of the layer carries the same hook
        self.restore()
        self._slot = None  # of a forward that was interrupted
        if not layer.training:
            return
        if not getattr(layer, "track_running_stats", True):
            return  # it passes no buffers to torch, which would leave the scratch buffers unwritten
        if not self._swappable:
            self._observe(layer, inputs)
            return
        values = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if values is not None and not values.numel():
            return  # no batch: torch counts it and leaves the statistics alone
        if values is not None and values.numel() == self._num_channels and self._num_ranks == 1:
            raise too_small(self._name, values)
        self._slot = self._sink.slot(self._index)
        if self._slot is None:
            return
        buffers = layer._buffers  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
        attributes = layer.__dict__
        self._own = (
            {key: buffers[key] for key in self._swapped},
            {key: attributes[key] for key in self._attributes if key in attributes},
        )
        buffers.update(zip(self._swapped, (*self._slot, None), strict=False))
        attributes.update({key: self._attributes[key] for key in self._own[1]})

    def swap_out(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if layer is not self._layer or self._slot is None:
            return
        own, self._slot = self._own, None
        self.restore()
        if output is None:
            return  # the forward raised
        if own is None:
            if self._buffers_changed(layer):
                momentum = layer.__dict__.get("momentum") if self._as_torch else 0.0
                self._sink.record(self._index, self._count, momentum)
            return
        values = inputs[0] if inputs and isinstance(inputs[0], Tensor) else output
        momentum = own[1].get("momentum", 1.0)
        self._sink.receive(self._index, values.numel() // self._num_channels * self._num_ranks, momentum)

    def _observe(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Measure the input of a layer of another make or with a mask, before its forward, which may work in place."""
        self.reached = True
        if not self._tracks and self._checks == _MAX_CHECKS:
            return
        values = inputs[0] if inputs else None
        if self._masked and not isinstance(values, Tensor):
            raise NotMeasurable(
                f"layer {self._name!r} was called with keywords; with a mask, pass its input by position"
            )
        dim = channel_dim(values, self._num_channels) if isinstance(values, Tensor) else None
        if not isinstance(values, Tensor) or dim is None or values.numel() <= self._num_channels:
            return
        self._slot = self._sink.slot(self._index)
        if self._slot is None:
            return
        if self._masked:
            values, dim = self._sink.valid_rows(self._name, values.detach(), dim), 1
            if values.numel() == self._num_channels:
                raise too_small(self._name, values)
        self._count = values.numel() // self._num_channels
        dims = [other for other in range(values.ndim) if other != dim]
        var, mean = torch.var_mean(values.detach().to(_accumulating(values.dtype)), dim=dims, correction=1)
        self._slot[0].copy_(mean)
        self._slot[1].copy_(var)
        self._before = None if self._tracks else getattr(layer, self._spread).clone()

    def _buffers_changed(self, layer: nn.Module) -> bool:
        """Whether the forward changed the buffers. Checked only until it did: the check makes a GPU wait."""
        if self._before is not None:
            self._checks += 1
            self._tracks = not torch.equal(self._before, getattr(layer, self._spread))
            self._before = None
        return self._tracks


def is_swappable(layer: nn.Module) -> bool:
    """Whether the layer's forward only passes its buffers to torch's batch norm.

    Example:
        >>> is_swappable(nn.BatchNorm1d(2))
        True
    """
    forward = getattr(layer.forward, "__func__", None)  # None: replaced on the instance
    if forward is None or not isinstance(layer, _BatchNorm):
        return False
    if isinstance(layer, TrackedBatchNorm) and forward.__module__.partition(".")[0] == "truenorm":
        return True
    return forward in _SWAPPABLE or (forward.__module__, forward.__qualname__) in _SWAPPABLE_NAMES


def _num_ranks(layer: nn.Module) -> int:
    """The number of processes that share the layer's batches, each assumed to hold an equal part."""
    if isinstance(layer, nn.SyncBatchNorm) and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(layer.process_group)
    return 1


def too_small(name: str, values: Tensor) -> InvalidInput:
    """The error for a batch of one value per channel."""
    return InvalidInput(
        f"layer {name!r} got a batch of one value per channel, shape {tuple(values.shape)}: "
        "it has no variance to train on; use a larger batch, or drop_last for the last one"
    )


def channel_dim(values: Tensor, num_channels: int) -> int | None:
    """The dimension of the channels: 1, as in torch, else the last; None if neither has that size."""
    if values.ndim < 2:
        return None
    if values.shape[1] == num_channels:
        return 1
    return values.ndim - 1 if values.shape[-1] == num_channels else None


def _accumulating(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Hook:
    """A hook that torch.compile does not trace, and that does nothing in copies and pickles of the model."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        if "torch._dynamo" in sys.modules:
            _uncompiled(self._call, module, inputs, output)
        else:
            self._call(module, inputs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return _idle_hook()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _idle_hook, ()


# torch.compiler.disable would import the compiler: seconds for users who compile nothing.
@_disable_dynamo
def _uncompiled(call: Any, *given: Any) -> None:
    call(*given)


def _idle_hook() -> Hook:
    return Hook(_nothing)


def _nothing(*args: Any) -> None:
    return

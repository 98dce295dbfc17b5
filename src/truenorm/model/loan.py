"""Lend a layer scratch buffers for the length of one forward, so that torch itself delivers the batch's moments.

With momentum 1 torch writes exactly the batch's mean and unbiased variance into the buffers it is given:
no second reduction over the activations, and outputs and gradients are those of the unwatched layer.

That holds for forwards known to write their buffers in training and never to read them. Any other (batch
renorm reads them, a frozen norm divides by them, one by hand may replace them) keeps its own, and what
goes into it is measured: a second reduction.
"""

import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # pyright: ignore[reportPrivateUsage]  # torch's own way to the lazy decorator
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's
from torch.utils.hooks import RemovableHandle

from truenorm.errors import InvalidInput
from truenorm.model.layers import buffers_of
from truenorm.nn.batchnorm import TrackedBatchNorm

# Forwards that hand their buffers to torch's batch norm, with the momentum of the attribute, and do nothing
# else with them; all of truenorm's are such. timm's are named, not imported.
_LENDABLE = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_LENDABLE_NAMES = (
    ("timm.layers.norm_act", "BatchNormAct2d.forward"),
    ("timm.layers.norm_act", "SyncBatchNormAct.forward"),
)
_LOOKS = 8
"""Training forwards after which buffers that never changed are taken for ones that never will."""


class Borrower(Protocol):
    """Who takes the moments of layers."""

    def slot(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Where the moments of this layer's next batch go (mean, unbiased variance); None: not this batch."""
        ...

    def receive(self, index: int, count: int, momentum: float | None) -> None:
        """The slot holds a batch of `count` values per channel; `momentum` is the layer's own.

        With momentum 0 the layer has updated its own buffers already.
        """
        ...


class Loan:
    """The hooks of one layer. Copies and pickles of the model carry hooks that do nothing."""

    def __init__(self, borrower: Borrower, index: int, name: str, layer: nn.Module) -> None:
        self._borrower = borrower
        self._index = index
        self._name = name
        self._layer = layer
        self._own: tuple[dict[str, Tensor | None], dict[str, Any]] | None = None
        self._slot: tuple[Tensor, Tensor] | None = None
        self._num_channels = len(buffers_of(layer)[0])
        self._lendable = is_lendable(layer)
        self._lent: dict[str, Any] = {"momentum": 1.0}
        self._lent_buffers = ("running_mean", "running_var")
        if isinstance(layer, TrackedBatchNorm):
            # The scratch is for torch to write, and nothing is counted: the layer takes the batch in afterwards.
            self._lent["tracking"] = "torch"
            self._lent_buffers += ("num_batches_tracked",)
        self._num_ranks = _num_ranks(layer)
        # Of other makes: does it track batches at all? Not known until its buffers change.
        self._tracks = False
        self.reached = False
        self._looks = 0
        self._before: Tensor | None = None
        self._handles: list[RemovableHandle] = [
            layer.register_forward_pre_hook(Hook(self.lend)),  # pyright: ignore[reportArgumentType]  # disable() hides the signature
            # First of all hooks: those of the user find the layer's own buffers, as without a watch.
            layer.register_forward_hook(Hook(self.take_back), prepend=True, always_call=True),  # pyright: ignore[reportArgumentType]  # likewise
        ]

    def close(self) -> None:
        """Give the layer its own buffers back, whatever happened, and remove the hooks."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def restore(self) -> None:
        """End an open loan: one whose forward was interrupted, say by Ctrl-C, was not ended by its hook."""
        if self._own is not None:
            buffers, attributes = self._own
            self._layer._buffers.update(buffers)  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
            self._layer.__dict__.update(attributes)
            self._own = None

    def lend(self, layer: nn.Module, inputs: tuple[Any, ...], _: None) -> None:
        if layer is not self._layer:
            return  # a copy of the layer carries the same hook
        self.restore()
        self._slot = None  # of a forward that was interrupted
        if not layer.training:
            return
        if not getattr(layer, "track_running_stats", True):
            return  # it hands no buffers to torch, and would leave what it is lent as it is
        if not self._lendable:
            self._observe(layer, inputs)
            return
        values = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if values is not None and not values.numel():
            return  # no batch: torch counts it and leaves the statistics alone
        if values is not None and values.numel() == self._num_channels and self._num_ranks == 1:
            raise too_small(self._name, values)
        self._slot = self._borrower.slot(self._index)
        if self._slot is None:
            return
        buffers = layer._buffers  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
        attributes = layer.__dict__
        self._own = (
            {key: buffers[key] for key in self._lent_buffers},
            {key: attributes[key] for key in self._lent if key in attributes},
        )
        buffers.update(zip(self._lent_buffers, (*self._slot, None), strict=False))
        attributes.update({key: self._lent[key] for key in self._own[1]})

    def take_back(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if layer is not self._layer or self._slot is None:
            return
        own, self._slot = self._own, None
        self.restore()
        if output is None:
            return  # the forward raised
        if own is None:
            if self._has_tracked(layer):
                self._borrower.receive(self._index, inputs[0].numel() // self._num_channels, 0.0)
            return
        values = inputs[0] if inputs and isinstance(inputs[0], Tensor) else output
        momentum = own[1].get("momentum", 1.0)
        self._borrower.receive(self._index, values.numel() // self._num_channels * self._num_ranks, momentum)

    def _observe(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Measure what goes into a module of another make: before its forward, which may work in place."""
        self.reached = True
        if not self._tracks and self._looks == _LOOKS:
            return
        values = inputs[0] if inputs else None
        dim = channel_dim(values, self._num_channels) if isinstance(values, Tensor) else None
        if not isinstance(values, Tensor) or dim is None or values.numel() <= self._num_channels:
            return
        self._slot = self._borrower.slot(self._index)
        if self._slot is None:
            return
        dims = [other for other in range(values.ndim) if other != dim]
        var, mean = torch.var_mean(values.detach().to(_accumulating(values.dtype)), dim=dims, correction=1)
        self._slot[0].copy_(mean)
        self._slot[1].copy_(var)
        self._before = None if self._tracks else buffers_of(layer)[1].clone()

    def _has_tracked(self, layer: nn.Module) -> bool:
        """Did the forward change the buffers? Once it did, it is not asked again: asking makes a GPU wait."""
        if self._before is not None:
            self._looks += 1
            self._tracks = not torch.equal(self._before, buffers_of(layer)[1])
            self._before = None
        return self._tracks


def is_lendable(layer: nn.Module) -> bool:
    """Does the layer's forward hand its buffers to torch's batch norm, and do nothing else with them?

    Example:
        >>> is_lendable(nn.BatchNorm1d(2))
        True
    """
    forward = getattr(layer.forward, "__func__", None)  # None: replaced on the instance
    if forward is None or not isinstance(layer, _BatchNorm):
        return False
    if isinstance(layer, TrackedBatchNorm) and forward.__module__.partition(".")[0] == "truenorm":
        return True
    return forward in _LENDABLE or (forward.__module__, forward.__qualname__) in _LENDABLE_NAMES


def _num_ranks(layer: nn.Module) -> int:
    """Over how many processes the layer's batches reach, each taken to hold as much of them."""
    if isinstance(layer, nn.SyncBatchNorm) and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(layer.process_group)
    return 1


def too_small(name: str, values: Tensor) -> InvalidInput:
    """The error of a batch that has no variance."""
    return InvalidInput(
        f"layer {name!r} got a batch of one value per channel, shape {tuple(values.shape)}: "
        "it has no variance to train on; use a larger batch, or drop_last for the last one"
    )


def channel_dim(values: Tensor, num_channels: int) -> int | None:
    """Dimension 1, as torch has it; else the last; None where neither has as many."""
    if values.ndim < 2:
        return None
    if values.shape[1] == num_channels:
        return 1
    return values.ndim - 1 if values.shape[-1] == num_channels else None


def _accumulating(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Hook:
    """A hook that torch.compile leaves alone, and that copies and pickles of a model do not take along."""

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


# torch.compiler.disable would import the compiler here and now: seconds for everybody who compiles nothing.
@_disable_dynamo
def _uncompiled(call: Any, *given: Any) -> None:
    call(*given)


def _idle_hook() -> Hook:
    return Hook(_nothing)


def _nothing(*args: Any) -> None:
    return

"""Lend a layer scratch buffers for the length of one forward, so that torch itself delivers the batch's moments.

With momentum 1 torch writes exactly the batch's mean and unbiased variance into the buffers it is given:
no second reduction over the activations, and outputs and gradients are those of the unwatched layer.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's
from torch.utils.hooks import RemovableHandle

from truenorm.errors import InvalidInput
from truenorm.model.layers import buffers_of

# A variance no batch has: what it turns into tells what a module of unknown make does with its momentum.
_MARK = 1e30


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
        self._own: tuple[Tensor | None, Tensor | None, Any] | None = None
        self._slot: tuple[Tensor, Tensor] | None = None
        self._num_channels = len(buffers_of(layer)[0])
        # torch's own forward is known to honour the attribute `momentum`; of others the first batch tells.
        self._known = isinstance(layer, _BatchNorm)
        self._honours_momentum = True
        self._handles: list[RemovableHandle] = [
            layer.register_forward_pre_hook(Hook(self.lend)),  # pyright: ignore[reportArgumentType]  # disable() hides the signature
            layer.register_forward_hook(Hook(self.take_back), always_call=True),  # pyright: ignore[reportArgumentType]  # likewise
        ]

    def close(self) -> None:
        """Give the layer its own buffers back, whatever happened, and remove the hooks."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def restore(self) -> None:
        """End an open loan: one whose forward was interrupted, say by Ctrl-C, was not ended by its hook."""
        if self._own is not None:
            buffers = self._layer._buffers  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
            buffers["running_mean"], buffers["running_var"], momentum = self._own
            if momentum is not _NO_MOMENTUM:
                self._layer.__dict__["momentum"] = momentum
            self._own = None

    def lend(self, layer: nn.Module, inputs: tuple[Any, ...], _: None) -> None:
        if layer is not self._layer:
            return  # a copy of the layer carries the same hook
        self.restore()
        if not layer.training:
            return
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].numel() == self._num_channels:
            raise InvalidInput(
                f"layer {self._name!r} got a batch of one value per channel, shape {tuple(inputs[0].shape)}: "
                "it has no variance to train on; use a larger batch, or drop_last for the last one"
            )
        self._slot = self._borrower.slot(self._index)
        if self._slot is None or not self._honours_momentum:
            return
        buffers = layer._buffers  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
        momentum = layer.__dict__.get("momentum", _NO_MOMENTUM)
        self._own = buffers["running_mean"], buffers["running_var"], momentum
        buffers["running_mean"], buffers["running_var"] = self._slot
        if momentum is not _NO_MOMENTUM:
            layer.__dict__["momentum"] = 1.0
        if not self._known:
            self._slot[0].zero_()
            self._slot[1].fill_(_MARK)

    def take_back(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if layer is not self._layer or self._slot is None:
            return
        slot, own, self._slot = self._slot, self._own, None
        self.restore()
        if output is None:
            return  # the forward raised
        values = inputs[0] if inputs and isinstance(inputs[0], Tensor) else output
        count = values.numel() // self._num_channels
        momentum = 0.0 if own is None else 1.0 if own[2] is _NO_MOMENTUM else own[2]
        if not self._known:
            momentum = self._examine(slot, values, momentum)
        elif not self._honours_momentum:
            _measure_into(slot, values)
        if momentum is not _NOT_CALLED:
            self._borrower.receive(self._index, count, momentum)

    def _examine(self, slot: tuple[Tensor, Tensor], values: Tensor, momentum: Any) -> Any:
        """What did a module of unknown make do with momentum 1? Reads one number, once per layer."""
        left = slot[1].max().item() / _MARK
        if left < 1e-10:
            self._known = True
            return momentum
        if left == 1:
            return _NOT_CALLED  # it did not update its buffers: no batch norm in training mode
        self._known, self._honours_momentum = True, False  # it has a momentum of its own
        _measure_into(slot, values)
        return 1 - left


class Hook:
    """A hook that torch.compile leaves alone, and that copies and pickles of a model do not take along."""

    def __init__(self, call: Any) -> None:
        self._call = call

    @torch.compiler.disable
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        self._call(module, inputs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return _idle_hook()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _idle_hook, ()


def _idle_hook() -> Hook:
    return Hook(_nothing)


def _nothing(*args: Any) -> None:
    return


def close_all(loans: Iterable[Loan]) -> None:
    """Close every loan."""
    for loan in loans:
        loan.close()


def _measure_into(slot: tuple[Tensor, Tensor], values: Tensor) -> None:
    dims = [0, *range(2, values.ndim)]
    var, mean = torch.var_mean(values.detach(), dim=dims, correction=1)
    slot[0].copy_(mean)
    slot[1].copy_(var)


_NO_MOMENTUM = object()
_NOT_CALLED = object()

"""Batch norm with an activation of its own: ours, and those that hold theirs as a module (timm's `BatchNormAct2d`)."""

from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.errors import UnknownName
from truenorm.kernels import Activation, activated
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, TrackedBatchNorm
from truenorm.nn.tracking import Tracking

_OURS = {ours.origin: ours for ours in (BatchNorm1d, BatchNorm2d, BatchNorm3d)}
_ACTIVATED = ("timm.layers.norm_act", "BatchNormAct2d.forward")
"""Named, not imported."""

_MODULES: dict[type[nn.Module], tuple[Activation, dict[str, Any]]] = {
    nn.Identity: ("identity", {}),
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.SiLU: ("silu", {}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.Hardswish: ("hardswish", {}),
}
"""What torch's modules are called here, and with which parameters alone."""


class BatchNormAct(TrackedBatchNorm):
    """Batch norm, a residual added, a fixed activation; the base of `BatchNormAct1d`, `2d` and `3d`.

    Args:
        activation: what is applied last. The others: see `BatchNorm2d`.

    Raises:
        UnknownName: no such activation, no such tracking.
    """

    activation: Activation = "relu"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation = "relu",
        tracking: Tracking = "pooled",
        **newer: Any,
    ) -> None:
        if activation not in get_args(Activation):
            raise UnknownName("activation", activation, get_args(Activation))
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, tracking=tracking, **newer
        )
        self.activation = activation

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the activation is the layer's, not the call's
        self, input: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        return super().forward(input, residual, self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class BatchNormAct1d(BatchNormAct, nn.BatchNorm1d):
    """Batch norm over (N, C) or (N, C, L), a residual added, an activation applied: see `BatchNormAct2d`.

    Example:
        >>> BatchNormAct1d(1)(torch.tensor([[1.0], [3.0]])).round().tolist()
        [[0.0], [1.0]]
    """

    origin = nn.BatchNorm1d


class BatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    r"""Batch norm over (N, C, H, W), a residual added, an activation applied: one sweep where kernels can.

    $$ y = \mathrm{act}(\mathrm{BN}(x) + r) $$

    Parameters, buffers and the keys of the state dict are those of `BatchNorm2d`, and so of torch's: weights
    load strictly both ways. Called as `layer(input, residual=None)`, r of the shape of the input.

    Args:
        activation: `identity`, `relu`, `leaky_relu` (slope 0.01), `silu`, `gelu` (by erf) or `hardswish`.
        num_features, eps, momentum, affine, track_running_stats, device, dtype, tracking: as of `BatchNorm2d`.

    Raises:
        UnknownName: no such activation, no such tracking.
        ValueError: the input is not (N, C, H, W), or has one value per channel in training.

    Example:
        >>> norm = BatchNormAct2d(3, activation="silu")
        >>> x, r = torch.randn(2, 8, 3, 4, 4)
        >>> plain = BatchNorm2d(3)(x)
        >>> torch.allclose(norm(x), nn.functional.silu(plain))
        True
        >>> torch.allclose(norm(x, r), nn.functional.silu(plain + r))
        True
    """

    origin = nn.BatchNorm2d


class BatchNormAct3d(BatchNormAct, nn.BatchNorm3d):
    """Batch norm over (N, C, D, H, W), a residual added, an activation applied: see `BatchNormAct2d`.

    Example:
        >>> BatchNormAct3d(2)(torch.randn(3, 2, 2, 4, 4)).min().item()
        0.0
    """

    origin = nn.BatchNorm3d


class TrackedBatchNormAct(TrackedBatchNorm):
    """Batch norm, then the layer's own `drop` and `act`."""

    fuses: bool = False
    """Apply an `act` that kernels know within batch norm, instead of calling it."""

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: Activation = "identity") -> Tensor:
        own = self.in_one_call()
        if own == "identity":
            return super().forward(input, residual, activation)
        if own is not None:
            return activated(super().forward(input, activation=own), residual, activation)
        drop, act = self._behind()
        return activated(act(drop(super().forward(input))), residual, activation)

    def in_one_call(self) -> Activation | None:
        """What is applied within batch norm; None: drop and act are called."""
        drop, act = self._behind()
        if not self.fuses or activation_of(drop) != "identity" or is_hooked(drop) or is_hooked(act):
            return None
        return activation_of(act)

    def _behind(self) -> tuple[nn.Module, nn.Module]:
        drop, act = self._modules["drop"], self._modules["act"]
        assert drop is not None and act is not None
        return drop, act


def activation_of(module: nn.Module) -> Activation | None:
    """Which of `Activation` a module is, `identity` among them; None: another.

    Example:
        >>> activation_of(nn.ReLU(inplace=True)), activation_of(nn.GELU("tanh"))
        ('relu', None)
    """
    name, parameters = _MODULES.get(type(module), (None, {}))
    if name is None or "forward" in module.__dict__:
        return None
    return name if all(module.__dict__[key] == value for key, value in parameters.items()) else None


def is_hooked(module: nn.Module) -> bool:
    """Does anything see, or change, what goes into the module, comes out of it or comes back?

    Example:
        >>> is_hooked(nn.ReLU())
        False
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(module.__dict__[kind] for kind in hooks)


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

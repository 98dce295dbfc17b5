"""Batch norm with an activation: ours, and timm's `BatchNormAct2d`, which holds its activation as a module."""

from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn

from truenorm.errors import UnknownName
from truenorm.kernels import Activation
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, TrackedBatchNorm, Tracking

_OURS: dict[type[nn.Module], type[TrackedBatchNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
_TIMMS = ("timm.layers.norm_act", "BatchNormAct2d")
"""Module and name: timm is not imported here."""


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
    """Batch norm, then the layer's own `drop` and `act`: timm's `BatchNormAct2d` with our statistics."""

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # timm's signature
        drop, act = self.drop_and_act()
        return act(drop(super().forward(input)))

    def drop_and_act(self) -> tuple[nn.Module, nn.Module]:
        """What is applied after batch norm, in this order."""
        drop, act = self._modules["drop"], self._modules["act"]
        assert drop is not None and act is not None
        return drop, act


def tracked(origin: type[nn.Module]) -> type[TrackedBatchNorm] | None:
    """The class that is torch's batch norm, or timm's `BatchNormAct2d`, with our statistics; None for other classes.

    Instances are instances of `origin`, and keep everything that it defines but the forward.

    Example:
        >>> tracked(nn.BatchNorm2d) is BatchNorm2d, tracked(nn.SyncBatchNorm)
        (True, None)
    """
    if (origin.__module__, origin.__qualname__) == _TIMMS:
        return _tracked_timms(origin)
    return _OURS.get(origin)


@cache
def _tracked_timms(origin: type[nn.Module]) -> type[TrackedBatchNormAct]:
    """Made at run time, since timm is not imported here."""

    def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
        # Such a class cannot be found by its name: pickles and copies name timm's.
        return _empty, (origin,), self.__getstate__()

    namespace = {"origin": origin, "__reduce_ex__": reduce, "__module__": __name__}
    cls: Any = type(origin.__name__, (TrackedBatchNormAct, origin), namespace)
    return cls


def _empty(origin: type[nn.Module]) -> Any:
    cls = _tracked_timms(origin)
    return cls.__new__(cls)

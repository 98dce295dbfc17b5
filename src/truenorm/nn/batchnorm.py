"""Batch norm for vectors, images and volumes: torch's in training, with statistics that are right at inference."""

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm import kernels
from truenorm.errors import UnknownName
from truenorm.kernels import NOTHING, Activation, Affine, Epilogue, Running, Tracking

LONG_TRAINED = 10_000
"""The batch count that is assumed for loaded statistics without `num_batches_tracked`."""


class TrackedBatchNorm(_BatchNorm):
    r"""torch's batch norm with a choice of running statistics; the base of `BatchNorm1d`, `2d` and `3d`.

    On a CPU the output in training is torch's to the bit, on a GPU to rounding; only what is stored differs
    (`tracking`). The parameters, the buffers and the keys of the state dict are torch's, and load strictly both ways. A
    state dict without counts, or with counts of 0 beside buffers that are not (0, 1), is taken as long trained: its
    statistics are not wiped by the first batch.

    Args:
        newer: what later versions of torch's constructor add, such as `bias`. The others: see `BatchNorm2d`.

    Raises:
        UnknownName: no such tracking.
    """

    tracking: Tracking = "pooled"
    origin: ClassVar[type[_BatchNorm]] = _BatchNorm
    """torch's class, which `convert(to="torch")` gives back."""

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
        tracking: Tracking = "pooled",
        **newer: Any,
    ) -> None:
        if tracking not in get_args(Tracking):
            raise UnknownName("tracking", tracking, get_args(Tracking))
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **newer)
        self.tracking = tracking

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: Activation = "identity") -> Tensor:
        """act(BN(x) + r): what comes after the batch norm, in the same sweep where kernels can."""
        if not isinstance(input, Proxy):  # a tracer has no shape to check yet
            self._check_input_dim(input)
        buffers, parameters = self._buffers, self._parameters  # attribute access is ten times slower
        mean, var = buffers["running_mean"], buffers["running_var"]
        # Not there when parametrized. `get` would look the attribute up in any case.
        weight = parameters["weight"] if "weight" in parameters else self.weight  # noqa: SIM401  # said above
        bias = parameters["bias"] if "bias" in parameters else self.bias  # noqa: SIM401  # said above
        affine = Affine(weight, bias, self.eps)
        plain = residual is None and activation == "identity"
        epilogue = NOTHING if plain else Epilogue(residual, activation)
        if not self.training and mean is not None and var is not None:
            return kernels.normalize(input, mean, var, affine, epilogue)
        if not (self.training and self.track_running_stats):
            mean = var = None
        running = Running(mean, var, buffers["num_batches_tracked"], self.momentum, self.tracking)
        return _training(input, affine, epilogue, running)

    def update_running_stats(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics by the moments of a batch (variance biased) that something else measured."""
        buffers = self.running_mean, self.running_var, self.num_batches_tracked
        kernels.track(Running(*buffers, self.momentum, self.tracking), mean, var, count=count)

    def trust(self) -> None:
        """Take statistics that no batch was counted for as long trained, unless they are the initial 0 and 1."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or count is None or count.is_meta or mean.is_meta:
            return
        if self.tracking == "pooled" and int(count) == 0 and bool(((mean != 0) | (var != 1)).any()):
            count.fill_(LONG_TRAINED)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any, **named: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **named)
        if local_metadata.get("assign_to_params_buffers") and self.num_batches_tracked is not None:
            self.num_batches_tracked = self.num_batches_tracked.clone()  # it is the caller's, and `trust` may fill it
        self.trust()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tracking={self.tracking!r}"


@torch.fx.wrap  # one node in a traced graph: tracing through it would record no update of the buffers
def _training(input: Tensor, affine: Affine, epilogue: Epilogue, running: Running) -> Tensor:
    return kernels.batch_norm(input, affine, epilogue, running)[0]


class BatchNorm1d(TrackedBatchNorm, nn.BatchNorm1d):
    """Batch norm over (N, C) or (N, C, L), as torch's, whose statistics are the population's.

    Constructor and behaviour are those of `torch.nn.BatchNorm1d`, and `tracking=`: see `BatchNorm2d`.

    Example:
        >>> norm = BatchNorm1d(1)
        >>> _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> norm.running_mean.item(), norm.running_var.item()
        (2.0, 1.0)
    """

    origin = nn.BatchNorm1d


class BatchNorm2d(TrackedBatchNorm, nn.BatchNorm2d):
    r"""Batch norm over (N, C, H, W), as torch's, whose statistics are the population's.

    Trains as `torch.nn.BatchNorm2d` does, on a CPU to the bit. What it stores is pooled: with t batches seen,

    $$ a = \max(\mathrm{momentum}, 1/t), \quad \delta = m - M, \quad M \leftarrow M + a\delta, \quad
       V \leftarrow (1-a)V + a v + a(1-a)\delta^2 $$

    right from the first batch (torch starts from 0 and 1), and at small batches (torch stores n/(n−1) times
    the variance within batches, which behind another batch norm is too much by up to that factor).

    Args:
        num_features: C.
        eps: ε.
        momentum: weight of the new batch, torch's meaning (Keras's is 1 − ours); None averages all batches,
            0 keeps the statistics as they are.
        affine: learn γ and β, of shape (C,).
        track_running_stats: keep running statistics at all.
        device, dtype: of parameters and buffers.
        tracking: `pooled`, or `torch` for torch's own recursion.

    Raises:
        UnknownName: no such tracking.
        ValueError: the input is not (N, C, H, W), or has one value per channel in training.

    Source: Ioffe & Szegedy 2015; pooling after Chan, Golub & LeVeque 1983.

    Example:
        >>> norm = BatchNorm2d(3)
        >>> images = torch.randn(8, 3, 4, 4)
        >>> _ = norm(images)
        >>> torch.allclose(norm.running_var, images.var((0, 2, 3), correction=0))
        True
    """

    origin = nn.BatchNorm2d


class BatchNorm3d(TrackedBatchNorm, nn.BatchNorm3d):
    """Batch norm over (N, C, D, H, W), as torch's, whose statistics are the population's.

    Constructor and behaviour are those of `torch.nn.BatchNorm3d`, and `tracking=`: see `BatchNorm2d`.

    Example:
        >>> BatchNorm3d(2)(torch.randn(3, 2, 2, 4, 4)).shape
        torch.Size([3, 2, 2, 4, 4])
    """

    origin = nn.BatchNorm3d

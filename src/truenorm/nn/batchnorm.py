"""Batch norm for vectors, images and volumes: torch's in training, with statistics that are right at inference."""

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm import kernels
from truenorm.errors import UnknownName
from truenorm.kernels import NOTHING, Activation, Affine, Epilogue, Recursion, Running
from truenorm.nn.dynamic import MOMENTA, OWN, Followed, afresh, follow, keep, next_gain, restart, rows_for, settle

Tracking = Literal["pooled", "torch", "dynamic"]
"""How running statistics take in batches: pooled, as torch does it, or pooled under a momentum that is chosen."""

LONG_TRAINED = 10_000
"""The batch count that is assumed for loaded statistics without `num_batches_tracked`."""


_FOLLOWED = (*OWN, "running_mean", "running_var", "num_batches_tracked")
"""The buffers of `Followed`, in its order."""


class TrackedBatchNorm(_BatchNorm):
    r"""torch's batch norm with a choice of running statistics; the base of `BatchNorm1d`, `2d` and `3d`.

    On a CPU the output in training is torch's to the bit, on a GPU to rounding; only what is stored differs
    (`tracking`). The parameters and the keys of the state dict are torch's, and load strictly both ways. A
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
        self.track_by(tracking)

    def track_by(self, tracking: Tracking) -> None:
        """From now on keep running statistics in this way; what is stored stays.

        Example:
            >>> norm = BatchNorm1d(2)
            >>> norm.track_by("dynamic")
            >>> norm.tracking
            'dynamic'
        """
        if tracking != self.tracking:
            self.settle()
        self.tracking = tracking
        for key in OWN:
            if key in self._buffers:
                delattr(self, key)
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if tracking == "dynamic" and mean is not None and var is not None and count is not None:
            for key, values in zip(OWN, afresh(mean, var, count), strict=False):
                self.register_buffer(key, values, persistent=False)

    def _follow_afresh(self) -> None:
        """Let all averages start from the statistics as they are."""
        followed = self._followed()
        if followed is None or followed.mean.is_meta:
            return
        if followed.rows.is_meta or len(followed.rows) != len(rows_for(followed.mean)):  # made on the meta device
            self.track_by("dynamic")
        else:  # in place: who holds the buffers, such as data parallelism, goes on holding them
            restart(followed)

    @property
    def chosen_momentum(self) -> float | None:
        """The momentum under which the running statistics are kept now; 1 − it is Keras's, or β.

        With `tracking="dynamic"` that which predicted best so far, None before the first batch; else `momentum`.

        Example:
            >>> norm = BatchNorm1d(2, tracking="dynamic")
            >>> for _ in range(100):
            ...     _ = norm(torch.randn(32, 2))
            >>> norm.chosen_momentum < 0.1  # what does not move is averaged for long
            True
        """
        self.settle()
        followed = self._followed()
        if followed is None:
            return self.momentum
        return MOMENTA[int(followed.scores.argmin())] if int(followed.num_batches) else None

    def settle(self) -> None:
        """Choose the momentum by all batches so far, and store its statistics.

        With `tracking="dynamic"` it is chosen every 32 batches, and whenever somebody asks: `eval()`, `state_dict()`,
        `chosen_momentum`, `truenorm.statistics`. In between the buffers are kept under the one chosen last.
        """
        followed = self._followed()
        if followed is not None and not followed.settled.is_meta:
            settle(followed, self.eps)

    def train(self, mode: bool = True) -> "TrackedBatchNorm":
        """As torch's; `train(False)` and `eval()` settle."""
        if not mode:
            self.settle()
        return super().train(mode)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch."""
        super().reset_running_stats()
        self._follow_afresh()

    def _followed(self) -> Followed | None:
        """The averages that are followed; None where none are, or where a pass has set the momentum."""
        if self.tracking != "dynamic" or self.momentum in (None, 0, 1):
            return None
        buffers = self._buffers
        if "rows" not in buffers:
            return None
        found = [buffers[key] for key in _FOLLOWED]
        complete = [buffer for buffer in found if buffer is not None]
        return Followed(*complete) if len(complete) == len(found) else None

    def _recursion(self) -> Recursion:
        return "torch" if self.tracking == "torch" else "pooled"

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
        followed = None if mean is None else self._followed()
        if followed is not None:
            return _training_followed(input, affine, epilogue, followed)
        running = Running(mean, var, buffers["num_batches_tracked"], self.momentum, self._recursion())
        return _training(input, affine, epilogue, running)

    def update_running_stats(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics by the moments of a batch (variance biased) that something else measured."""
        followed = self._followed()
        if followed is not None:
            follow(followed, mean, var, self.eps)
            return
        running = self.running_mean, self.running_var, self.num_batches_tracked
        kernels.track(Running(*running, self.momentum, self._recursion()), mean, var, count=count)

    def trust(self) -> None:
        """Take statistics that no batch was counted for as long trained, unless they are the initial 0 and 1."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or count is None or count.is_meta or mean.is_meta:
            return
        if self.tracking != "torch" and int(count) == 0 and bool(((mean != 0) | (var != 1)).any()):
            count.fill_(LONG_TRAINED)

    def _apply(self, fn: Any, recurse: bool = True) -> "TrackedBatchNorm":
        before = {key: self.get_buffer(key) for key in OWN[:4] if key in self._buffers}
        self.settle()
        super()._apply(fn, recurse)
        for key, values in before.items():
            now = self.get_buffer(key)
            if now.dtype != values.dtype and not values.is_meta:  # `half` is for what the layer computes with
                self._buffers[key] = values.to(now.device)
            if key == "rows" and now.is_cpu != values.is_cpu and not values.is_meta:
                self._buffers[key] = rows_for(self.get_buffer("written_mean"))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Beside the version that torch keeps of each module: another key would not load strictly into torch's layer.
        if self.tracking == "dynamic" and hasattr(destination, "_metadata"):
            followed = {key: self._buffers[key] for key in OWN[:2] if key in self._buffers}
            destination._metadata.setdefault(prefix[:-1], {})["followed"] = followed

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any, **named: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **named)
        if local_metadata.get("assign_to_params_buffers") and self.num_batches_tracked is not None:
            self.num_batches_tracked = self.num_batches_tracked.clone()  # it is the caller's, and `trust` may fill it
        self.trust()
        if f"{prefix}running_mean" in state_dict:
            self._follow_afresh()
            for key, values in local_metadata.get("followed", {}).items():
                now = self._buffers.get(key)
                if now is not None and now.shape == values.shape and not now.is_meta:
                    now.copy_(values)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tracking={self.tracking!r}"


@torch.fx.wrap  # one node in a traced graph: tracing through it would record no update of the buffers
def _training(input: Tensor, affine: Affine, epilogue: Epilogue, running: Running) -> Tensor:
    return kernels.batch_norm(input, affine, epilogue, running)[0]


@torch.fx.wrap
def _training_followed(input: Tensor, affine: Affine, epilogue: Epilogue, followed: Followed) -> Tensor:
    if input.shape[1] != len(followed.mean):
        return _training(input, affine, epilogue, Running(followed.mean, followed.var, None, 0.0, "pooled"))  # raises
    gain = next_gain(followed) if input.numel() else None
    if gain is not None:
        y, mean, inverse_std = kernels.batch_norm_pooled(input, affine, epilogue, followed.mean, followed.var, gain)
        keep(followed, mean, inverse_std, affine.eps)
        return y
    y, mean, var = kernels.batch_norm(input, affine, epilogue)
    if input.numel():
        assert mean is not None and var is not None  # no running statistics were given
        follow(followed, mean, var, affine.eps)
    return y


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
        tracking: `pooled`; `torch` for torch's own recursion; or `dynamic`: pooled under a momentum of the layer's own,
            chosen as it trains among seven from 0.9 to 1/486, as that which predicted the batches so far best
            (`rules.Adaptive`); see `settle`. Then `momentum` is not used, but for the values that passes set: None
            averages, 1 stores the last batch, 0 nothing. Read it as `chosen_momentum`. A state dict that is saved as
            torch gives it holds in its metadata what is needed to go on to the same bits; from any other the choice
            starts anew.

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

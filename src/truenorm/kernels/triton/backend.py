"""The kernels as a backend: what they take, and the operations, of which one keeps running statistics."""

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from truenorm.install import install_line
from truenorm.kernels.activation import Activation, activated

_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_OLDEST = (8, 0)
"""Compute capability of an A100: what came before has no bfloat16."""


class Triton:
    """NVIDIA GPUs, in eager mode."""

    def refusal(self, x: Tensor) -> str | None:
        if not x.is_cuda:
            return "the kernels are for NVIDIA GPUs"  # no words about x: on a CPU this is asked at each step
        return _input(x) or _machine(x.device)

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _batch_norm(x, weight, bias, residual, activation, eps)

    def tracked_batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        num_batches_tracked: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
        momentum: float | Tensor | None,
        tracking: Literal["pooled", "torch"],
    ) -> Tensor:
        still = not isinstance(momentum, Tensor) and momentum == 0
        uncounted = momentum is None and num_batches_tracked is None
        return _batch_norm(
            x,
            weight,
            bias,
            residual,
            activation,
            eps,
            running=None if still or uncounted else (running_mean, running_var),
            num_batches_tracked=None if still and tracking == "pooled" else num_batches_tracked,
            momentum=momentum,
            pooled=tracking == "pooled",
        )[0]

    def normalize(
        self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
    ) -> Tensor:
        kernels = _kernels()
        x = kernels.stages.dense(x)
        weight, bias = _of_channels(weight, x), _of_channels(bias, x)
        given_mean, given_var = _of_channels(mean, x), _of_channels(var, x)
        added, applied = _applied_by_kernels(x, residual, activation)
        if _has_gradient(x, weight, bias, added):
            y = kernels.Normalize.apply(x, weight, bias, added, given_mean, given_var, applied, eps)
            assert isinstance(y, Tensor)
        else:
            y = kernels.operators.registered.normalize(
                x, given_mean, given_var, weight, bias, added, applied, eps, False
            )[0]
        return _rest(y, residual, activation, added, applied)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kernels = _kernels()
        return kernels.operators.registered.moments(kernels.stages.dense(x.detach()))


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: Activation,
    eps: float,
    *,
    running: tuple[Tensor, Tensor] | None = None,
    num_batches_tracked: Tensor | None = None,
    momentum: float | Tensor | None = None,
    pooled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    kernels = _kernels()
    x = kernels.stages.dense(x)
    weight, bias = _of_channels(weight, x), _of_channels(bias, x)
    buffers = [_of_channels(value, x) for value in running or (None, None)]
    added, applied = _applied_by_kernels(x, residual, activation)
    scheduled = momentum if isinstance(momentum, Tensor) else None
    fixed = None if isinstance(momentum, Tensor) else momentum
    given = (
        x,
        weight,
        bias,
        added,
        *buffers,
        num_batches_tracked,
        scheduled,
        fixed,
        pooled,
        applied,
        eps,
    )
    if _has_gradient(x, weight, bias, added):
        y, mean, var = kernels.BatchNorm.apply(*given)
    else:
        y, mean, _, var, _ = kernels.operators.registered.batch_norm(*given, False)
    for value, given_value in zip(running or (), buffers, strict=False):
        if given_value is not value and given_value is not None:  # a contiguous copy
            value.data.copy_(given_value)
    return _rest(y, residual, activation, added, applied), mean, var


@cache
def _kernels() -> Any:
    """Imported with the first input: triton is for GPUs, and takes its time."""
    from truenorm.kernels.triton import autograd

    return autograd


@cache
def _machine(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "this is an AMD GPU, on which the kernels were never tried"
    if find_spec("triton") is None:
        return f"triton is not installed; run: {install_line('gpu', 'triton')}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        return f"compute capability {capability[0]}.{capability[1]} is below {_OLDEST[0]}.{_OLDEST[1]}"
    return None


def _input(x: Tensor) -> str | None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]  # public, and not marked so
        return "a graph is being made, which must not need truenorm"
    if x.dtype not in _TYPES:
        return f"{x.dtype} is none of the floating-point types of the kernels"
    if x.ndim < 2 or not x.numel():
        return f"there is nothing to normalise in shape {tuple(x.shape)}"
    # torch has no public way to ask either.
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        return "torch.func transforms what runs, and knows torch's own operators only"
    if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return "forward-mode differentiation knows torch's own operators only"
    return None


def _of_channels(value: Tensor | None, x: Tensor) -> Tensor | None:
    """A parameter as the kernels read it: they would read beyond one that is too short."""
    if value is not None and value.numel() != x.shape[1]:
        raise ValueError(f"{value.numel()} values for the {x.shape[1]} channels of an input of shape {tuple(x.shape)}")
    return None if value is None else value.contiguous()


def _applied_by_kernels(x: Tensor, residual: Tensor | None, activation: Activation) -> tuple[Tensor | None, Activation]:
    """The residual and the activation that the kernels apply themselves."""
    kernels = _kernels()
    if residual is None:
        return None, activation
    if residual.shape != x.shape or residual.dtype != x.dtype or residual.device != x.device:
        return None, "identity"  # torch broadcasts and promotes
    # The gradient of others would have to read the residual again.
    applied = activation if activation in kernels.stages.SIGN_DECIDES else "identity"
    return kernels.stages.like(x, residual), applied


def _rest(
    y: Tensor, residual: Tensor | None, activation: Activation, added: Tensor | None, applied: Activation
) -> Tensor:
    """What `_applied_by_kernels` left to torch."""
    return activated(y, residual if added is None else None, "identity" if applied == activation else activation)


def _has_gradient(*values: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)

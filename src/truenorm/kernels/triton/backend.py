"""The kernels as a backend: what they take, and the operations."""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from truenorm.install import install_line
from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
from truenorm.kernels.epilogue import activated

_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_OLDEST = (8, 0)
"""Compute capability of an A100: what came before has no bfloat16."""


class Triton:
    """NVIDIA GPUs, in eager mode."""

    def refusal(self, x: Tensor) -> str | None:
        if not x.is_cuda:
            return "the kernels are for NVIDIA GPUs"  # constant string: this runs every step on CPU
        return _input(x) or _machine(x.device)

    def batch_norm(
        self, x: Tensor, affine: Affine, epilogue: Epilogue = NOTHING, running: Running | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if x.numel() == x.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        kernels = _kernels()
        x = kernels.stages.dense(x)
        weight, bias = _of_channels(affine.weight, x), _of_channels(affine.bias, x)
        inside = _inside(x, epilogue)
        written = _written(running)
        buffers = [_of_channels(buffer, x) for buffer in written[:2]]
        residual, activation = inside
        given = (x, weight, bias, residual, *buffers, *written[2:], activation, affine.eps)
        if _has_gradient(x, weight, bias, residual):
            y, mean, var = kernels.BatchNorm.apply(*given)
        else:
            y, mean, _, var, _ = kernels.operators.registered.batch_norm(*given, False)
        for value, copied in zip(written[:2], buffers, strict=True):
            if value is not None and copied is not None and copied is not value:
                value.data.copy_(copied)
        return activated(y, _outside(epilogue, inside)), mean, var

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine, epilogue: Epilogue = NOTHING) -> Tensor:
        kernels = _kernels()
        x = kernels.stages.dense(x)
        weight, bias = _of_channels(affine.weight, x), _of_channels(affine.bias, x)
        given_mean, given_var = _of_channels(mean, x), _of_channels(var, x)
        inside = _inside(x, epilogue)
        residual, activation = inside
        if _has_gradient(x, weight, bias, residual):
            y = kernels.Normalize.apply(x, weight, bias, residual, given_mean, given_var, activation, affine.eps)
            assert isinstance(y, Tensor)
        else:
            y = kernels.operators.registered.normalize(
                x, given_mean, given_var, weight, bias, residual, activation, affine.eps, False
            )[0]
        return activated(y, _outside(epilogue, inside))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kernels = _kernels()
        return kernels.operators.registered.moments(kernels.stages.dense(x.detach()))


class _Written(NamedTuple):
    """The running statistics as the operator takes them: those that it writes, and its rule."""

    mean: Tensor | None = None
    var: Tensor | None = None
    num_batches: Tensor | None = None
    momentum: Tensor | None = None
    fixed_momentum: float | None = None
    pooled: bool = False


def _written(running: Running | None) -> _Written:
    """Momentum 0 leaves statistics alone, as does an average without a count; pooled, 0 does not count either."""
    if running is None or running.mean is None or running.var is None:
        return _Written()
    mean, var, num_batches, momentum, tracking = running
    pooled = tracking == "pooled"
    scheduled: Any = momentum  # as with torch's layers, declared as a number
    if isinstance(scheduled, Tensor):
        return _Written(mean, var, num_batches, scheduled, None, pooled)
    if momentum == 0 or (momentum is None and num_batches is None):
        mean = var = None
    return _Written(mean, var, None if momentum == 0 and pooled else num_batches, None, momentum, pooled)


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


def _inside(x: Tensor, epilogue: Epilogue) -> Epilogue:
    """What of an epilogue the kernels apply themselves."""
    kernels = _kernels()
    residual, activation = epilogue
    if residual is None:
        return epilogue
    if residual.shape != x.shape or residual.dtype != x.dtype or residual.device != x.device:
        return NOTHING  # torch broadcasts and promotes
    # The gradient of others would have to read the residual again.
    return Epilogue(
        kernels.stages.like(x, residual), activation if activation in kernels.stages.SIGN_DECIDES else "identity"
    )


def _outside(epilogue: Epilogue, inside: Epilogue) -> Epilogue:
    """What is left to torch."""
    residual, activation = epilogue
    return Epilogue(
        residual if inside.residual is None else None, "identity" if inside.activation == activation else activation
    )


def _has_gradient(*values: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)

"""The stages as torch operators: opaque to tracers, known by shape, and safe to capture.

Each takes dense tensors and gives fresh ones; a tensor that was not asked for comes back empty. The gradient of a
residual is that of y where no bits were kept.
"""

# pyright: basic
import torch
from torch import Tensor

from truenorm.kernels.triton import stages

_LIBRARY = torch.library.Library("truenorm", "DEF")
_LIBRARY.define(
    "batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, Tensor? momentum, float? fixed_momentum, "
    "bool pooled, str activation, float eps, bool keep_bits) "
    "-> (Tensor y, Tensor mean, Tensor mean_lo, Tensor var, Tensor bits)"
)
_LIBRARY.define(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor mean_lo, Tensor var, "
    "Tensor bits, str activation, float eps, bool with_x) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)"
)
_LIBRARY.define(
    "normalize(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, str activation, "
    "float eps, bool keep_bits) -> (Tensor y, Tensor bits)"
)
_LIBRARY.define(
    "normalize_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor bits, "
    "str activation, float eps, bool with_x, bool with_parameters, bool with_residual) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)"
)
_LIBRARY.define("moments(Tensor x) -> (Tensor mean, Tensor var)")


def batch_norm(
    x,
    weight,
    bias,
    residual,
    running_mean,
    running_var,
    num_batches_tracked,
    momentum,
    fixed_momentum,
    pooled,
    activation,
    eps,
    keep_bits,
):
    partials, counts = stages.measured(x, num_batches_tracked)
    mean, mean_lo, var = stages.combined(
        partials,
        counts,
        x.shape[1],
        running_mean=running_mean,
        running_var=running_var,
        num_batches_tracked=num_batches_tracked,
        momentum=momentum,
        fixed_momentum=fixed_momentum,
        pooled=pooled,
    )
    y, bits = stages.applied(
        x, mean, mean_lo, var, weight, bias, residual, activation=activation, eps=eps, keep_bits=keep_bits
    )
    return y, mean, mean_lo, var, _given(bits, x, torch.uint8)


def batch_norm_backward(dy, x, weight, bias, mean, mean_lo, var, bits, activation, eps, with_x):
    bits = bits if bits.numel() else None
    sums, g, _ = stages.reduced(
        dy,
        x,
        bits,
        mean,
        mean_lo,
        var,
        weight,
        bias,
        activation=activation,
        eps=eps,
        with_sums=True,
        with_residual=bits is not None,  # kept, so that bits and dy are not read twice
        with_dx=False,
    )
    assert sums is not None
    count = x.numel() // x.shape[1]
    dweight, dbias, means = stages.parameter_gradients(sums, var, weight, bias, eps=eps, count=count)
    dx = None
    if with_x:
        dx = stages.input_gradient(
            dy if g is None else g,
            x,
            mean,
            mean_lo,
            var,
            weight,
            bias,
            means,
            activation=activation if g is None else "identity",
            eps=eps,
        )
    return _given(dx, x), _given(dweight, mean), _given(dbias, mean), _given(g, x)


def normalize(x, mean, var, weight, bias, residual, activation, eps, keep_bits):
    y, bits = stages.applied(
        x, mean, None, var, weight, bias, residual, activation=activation, eps=eps, keep_bits=keep_bits
    )
    return y, _given(bits, x, torch.uint8)


def normalize_backward(dy, x, mean, var, weight, bias, bits, activation, eps, with_x, with_parameters, with_residual):
    sums, g, dx = stages.reduced(
        dy,
        x,
        bits if bits.numel() else None,
        mean,
        None,
        var,
        weight,
        bias,
        activation=activation,
        eps=eps,
        with_sums=with_parameters,
        with_residual=with_residual,
        with_dx=with_x,
    )
    dweight = dbias = None
    if sums is not None:
        count = x.numel() // x.shape[1]
        dweight, dbias, _ = stages.parameter_gradients(sums, var, weight, bias, eps=eps, count=count)
    return _given(dx, x), _given(dweight, mean), _given(dbias, mean), _given(g, x)


def moments(x):
    mean, _, var = stages.combined(*stages.measured(x), x.shape[1])
    return mean, var


def _given(made: Tensor | None, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(0, dtype=dtype or x.dtype) if made is None else made


def _batch_norm_shapes(
    x,
    weight,
    bias,
    residual,
    running_mean,
    running_var,
    num_batches_tracked,
    momentum,
    fixed_momentum,
    pooled,
    activation,
    eps,
    keep_bits,
):
    mean = x.new_empty(x.shape[1], dtype=stages.exact(x))
    return torch.empty_like(x), mean, torch.empty_like(mean), torch.empty_like(mean), _bits(x, keep_bits)


def _batch_norm_backward_shapes(dy, x, weight, bias, mean, mean_lo, var, bits, activation, eps, with_x):
    return _gradients(x, mean, weight, bias, with_x, bits.numel() > 0)


def _normalize_shapes(x, mean, var, weight, bias, residual, activation, eps, keep_bits):
    return torch.empty_like(x), _bits(x, keep_bits)


def _normalize_backward_shapes(
    dy, x, mean, var, weight, bias, bits, activation, eps, with_x, with_parameters, with_residual
):
    parameters = (weight, bias) if with_parameters else (None, None)
    return _gradients(x, mean, *parameters, with_x, with_residual)


def _moments_shapes(x):
    mean = x.new_empty(x.shape[1], dtype=stages.exact(x))
    return mean, torch.empty_like(mean)


def _bits(x: Tensor, keep: bool) -> Tensor:
    return x.new_empty(stages.planned(x).bits if keep else 0, dtype=torch.uint8)


def _gradients(x: Tensor, mean: Tensor, weight: Tensor | None, bias: Tensor | None, with_x: bool, with_residual: bool):
    return (
        torch.empty_like(x) if with_x else x.new_empty(0),
        mean.new_empty(0) if weight is None else torch.empty_like(weight),
        mean.new_empty(0) if bias is None else torch.empty_like(bias),
        torch.empty_like(x) if with_residual else x.new_empty(0),
    )


for _operator, _shapes in (
    (batch_norm, _batch_norm_shapes),
    (batch_norm_backward, _batch_norm_backward_shapes),
    (normalize, _normalize_shapes),
    (normalize_backward, _normalize_backward_shapes),
    (moments, _moments_shapes),
):
    for _device in ("CUDA", "CPU"):  # the interpreter computes on CPUs
        _LIBRARY.impl(_operator.__name__, _operator, _device)
    torch.library.register_fake(f"truenorm::{_operator.__name__}", _shapes, lib=_LIBRARY)


registered = torch.ops.truenorm
"""All of them, by name."""

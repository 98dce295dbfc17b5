"""Gradients of the operators: by kernels; where they will be differentiated themselves, by the reference."""

# pyright: basic
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from truenorm.kernels.arguments import Activation, Affine, Epilogue
from truenorm.kernels.aten import is_channels_last
from truenorm.kernels.reference import Reference
from truenorm.kernels.triton import operators, stages

_REFERENCE = Reference()
_OPERATORS = operators.registered


class BatchNorm(Function):
    """Normalised by the batch: (y, mean, variance); gradients flow through y alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        num_batches_tracked: Tensor | None,
        momentum: Tensor | None,
        fixed_momentum: float | None,
        pooled: bool,
        activation: Activation,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, mean_lo, var, bits = _OPERATORS.batch_norm(
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
            keep_bits(residual, activation),
        )
        ctx.save_for_backward(x, weight, bias, mean, mean_lo, var, bits)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.activation, ctx.eps, ctx.channels_last = activation, eps, is_channels_last(x)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, mean_lo, var, bits = ctx.saved_tensors
        x = stages.laid_out(x, channels_last=ctx.channels_last)
        with_x, with_weight, with_bias, with_residual, *rest = ctx.needs_input_grad
        dy, activation, eps = gradients[0], ctx.activation, ctx.eps
        nothing = (None,) * len(rest)
        if dy is None:
            return None, None, None, None, *nothing
        dy = stages.like(x, dy)
        if torch.is_grad_enabled():
            affine = Affine(weight, bias, eps)
            slope = _slope(x, bits, (mean, mean_lo, var), affine, activation)

            def forward(x: Tensor, affine: Affine, epilogue: Epilogue) -> Tensor:
                return _REFERENCE.batch_norm(x, affine, epilogue)[0]

            *others, before = _differentiable(forward, dy, x, affine, slope, activation)
            return *others, before if with_residual else None, *nothing
        dx, dweight, dbias, dresidual = _OPERATORS.batch_norm_backward(
            dy, x, weight, bias, mean, mean_lo, var, bits, activation, eps, with_x
        )
        return (
            dx if with_x else None,
            dweight if with_weight else None,
            dbias if with_bias else None,
            (dresidual if bits.numel() else dy) if with_residual else None,
            *nothing,
        )


class Normalize(Function):
    """Normalised by statistics that are given: they have no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor,
        var: Tensor,
        activation: Activation,
        eps: float,
    ) -> Tensor:
        y, bits = _OPERATORS.normalize(
            x, mean, var, weight, bias, residual, activation, eps, keep_bits(residual, activation)
        )
        ctx.save_for_backward(x, weight, bias, mean, var, bits)
        ctx.activation, ctx.eps, ctx.channels_last = activation, eps, is_channels_last(x)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var, bits = ctx.saved_tensors
        x = stages.laid_out(x, channels_last=ctx.channels_last)
        with_x, with_weight, with_bias, with_residual, *rest = ctx.needs_input_grad
        activation, eps = ctx.activation, ctx.eps
        nothing = (None,) * len(rest)
        dy = stages.like(x, gradients[0])
        if torch.is_grad_enabled():
            affine = Affine(weight, bias, eps)
            slope = _slope(x, bits, (mean, None, var), affine, activation)

            def forward(x: Tensor, affine: Affine, epilogue: Epilogue) -> Tensor:
                return _REFERENCE.normalize(x, mean, var, affine, epilogue)

            *others, before = _differentiable(forward, dy, x, affine, slope, activation)
            return *others, before if with_residual else None, *nothing
        masked = bits.numel() > 0
        dx, dweight, dbias, dresidual = _OPERATORS.normalize_backward(
            dy,
            x,
            mean,
            var,
            weight,
            bias,
            bits,
            activation,
            eps,
            with_x,
            with_weight or with_bias,
            with_residual and masked,
        )
        return (
            dx if with_x else None,
            dweight if with_weight else None,
            dbias if with_bias else None,
            (dresidual if masked else dy) if with_residual else None,
            *nothing,
        )


def keep_bits(residual: Tensor | None, activation: Activation) -> bool:
    """Does a gradient need what went into the activation, and x alone does not tell it?"""
    return residual is not None and activation in stages.SIGN_DECIDES


def _slope(
    x: Tensor, bits: Tensor, moments: tuple[Tensor, Tensor | None, Tensor], affine: Affine, activation: Activation
) -> Tensor | None:
    """Of the activation, from its bits: the gradient before it of a gradient of ones."""
    if not bits.numel():
        return None
    with torch.no_grad():
        return stages.reduced(
            torch.ones_like(x),
            x,
            bits,
            *moments,
            affine.weight,
            affine.bias,
            activation=activation,
            eps=affine.eps,
            with_sums=False,
            with_residual=True,
            with_dx=False,
        )[1]


def _differentiable(
    forward: Callable[[Tensor, Affine, Epilogue], Tensor],
    dy: Tensor,
    x: Tensor,
    affine: Affine,
    slope: Tensor | None,
    activation: Activation,
) -> tuple[Tensor | None, ...]:
    """Gradients with a graph of their own, of x, weight, bias and residual; the bits stand for the activation."""
    if slope is not None:
        dy, activation = dy * slope, "identity"
    exact = stages.exact(x)
    weight, bias, eps = affine
    y = forward(x.to(exact), Affine(_to(weight, exact), _to(bias, exact), eps), Epilogue(None, activation))
    values = (x, weight, bias)
    wanted = [value for value in values if value is not None and value.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, dy.to(exact), create_graph=True) if wanted else ())
    gradients = [next(found) if value is not None and value.requires_grad else None for value in values]
    return *gradients, dy


def _to(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)

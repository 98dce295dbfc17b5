"""The formulas, plainly: what every other backend is held against."""

import torch
from torch import Tensor

from truenorm.kernels.activation import Activation, activated


class Reference:
    """Plain torch, differentiable, in the type of its input."""

    def refusal(self, x: Tensor) -> str | None:
        return None

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
        var, mean = torch.var_mean(x, _positions(x), correction=0)
        y = self.normalize(x, mean, var, weight, bias, residual=residual, activation=activation, eps=eps)
        return y, mean.detach(), var.detach()

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
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (x - mean.reshape(shape)) / (var.reshape(shape) + eps).sqrt()
        if weight is not None:
            y = y * weight.reshape(shape)
        if bias is not None:
            y = y + bias.reshape(shape)
        return activated(y, residual, activation)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x.detach(), _positions(x), correction=0)
        return mean, var


def _positions(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]

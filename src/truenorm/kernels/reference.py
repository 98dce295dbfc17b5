"""The formulas, plainly: what every other backend is compared with."""

import torch
from torch import Tensor

from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
from truenorm.kernels.epilogue import activated
from truenorm.kernels.tracking import track
from truenorm.stats.moments import moments


class Reference:
    """Plain torch, differentiable, in the type of its input; moments in float64."""

    def refusal(self, x: Tensor) -> str | None:
        return None

    def batch_norm(
        self, x: Tensor, affine: Affine, epilogue: Epilogue = NOTHING, running: Running | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        y = self.normalize(x, mean, var, affine, epilogue)
        mean, var = mean.detach(), var.detach()
        if running is not None:
            track(running, mean, var, count=x.numel() // x.shape[1])
        return y, mean, var

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine, epilogue: Epilogue = NOTHING) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (x - mean.reshape(shape)) / (var.reshape(shape) + affine.eps).sqrt()
        if affine.weight is not None:
            y = y * affine.weight.reshape(shape)
        if affine.bias is not None:
            y = y + affine.bias.reshape(shape)
        return activated(y, epilogue)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = moments(x)
        return found.mean, found.var

"""The networks of the claims, with any kind of norm: the study's, and what it has not."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.networks.norms import BatchNorm, NormLayer, batch_free_norm, group_norm
from truenorm.lab.networks.plain import cnn, mlp


class Bias(nn.Module):
    """No norm: only the bias that the layer before leaves to its norm.

    Example:
        >>> Bias(3)(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, input: Tensor) -> Tensor:
        return input + self.bias.view(-1, *[1] * (input.ndim - 2))


NORMS: Mapping[str, NormLayer] = {
    "none": Bias,
    "bn": BatchNorm,
    "ln": batch_free_norm("layer"),
    "gn": group_norm,
    "in": batch_free_norm("instance"),
}
"""Arm → what makes its norms."""

ARMS: Mapping[str, str] = {
    "none": "no norm, only biases",
    "bn": "batch norm",
    "ln": "layer norm",
    "gn": "group norm, groups of about 16 channels",
    "in": "instance norm",
}
"""Arm → what it is."""

ACTIVATIONS: Mapping[str, tuple[type[nn.Module], float]] = {
    "ReLU": (nn.ReLU, math.sqrt(2)),
    "tanh": (nn.Tanh, 1.0),
    "sigmoid": (nn.Sigmoid, 1.0),
}
"""Name → what it is, and the gain of its initial weights."""


def dense(
    context: ClaimsContext,
    norm_layer: NormLayer,
    *,
    depth: int = 4,
    width: int = 128,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """The study's MLP with hidden layers of equal width."""
    return mlp(
        context.input_shape, context.num_classes, norm_layer=norm_layer, widths=(width,) * depth, activation=activation
    )


def convolutional(context: ClaimsContext, norm_layer: NormLayer) -> nn.Module:
    """The study's CNN."""
    return cnn(context.input_shape, context.num_classes, norm_layer=norm_layer)


NETWORKS: Mapping[str, Callable[[ClaimsContext, NormLayer], nn.Module]] = {"mlp": dense, "cnn": convolutional}
"""Name → what makes it, of networks that see images as they are."""


def initialised(make: Callable[[], nn.Module], seed: int, *, gain: float = math.sqrt(2)) -> nn.Module:
    """A network with the initial weights of a seed: those of arms of equal shape are equal.

    $$ w \\sim N(0, gain^2 / fan\\_in), \\quad b = 0 $$

    A gain of √2 keeps the size of what ReLUs pass on (He et al. 2015), one of 1 of what tanh does. A network without
    norm is then at its best; torch's own initial weights would let its signal fade with depth.

    Args:
        make: gives the network.
        seed: of the weights; the global random state stays.
        gain: see the formula.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    # Convolutions are a quarter faster so.
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it

"""A deep MLP whose layers add to what they get (skip connections), with any norm in the branches or none."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.networks.norms import NormLayer


class SkipInit(nn.Module):
    r"""A branch times one learned number that begins at 0: at first the network is only its skip connections.

    Source: De & Smith 2020.

    Example:
        >>> SkipInit()(torch.ones(2, 3)).sum().item()
        0.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * input


class ResidualLayer(nn.Module):
    """The input, plus a branch: norm → ReLU → linear → `end`.

    Args:
        width: of the layer.
        norm_layer: makes the norm.
        end: makes what the branch ends with.

    Example:
        >>> from truenorm.lab.networks.norms import BatchNorm
        >>> ResidualLayer(8, BatchNorm)(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """

    def __init__(self, width: int, norm_layer: NormLayer, end: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            OrderedDict(norm=norm_layer(width), relu=nn.ReLU(), linear=nn.Linear(width, width, bias=False), end=end())
        )

    def forward(self, input: Tensor) -> Tensor:
        return input + self.branch(input)


def residual(
    context: ClaimsContext,
    norm_layer: NormLayer,
    *,
    depth: int,
    width: int,
    end: Callable[[], nn.Module] = nn.Identity,
) -> nn.Module:
    """As many linear layers, norms and ReLUs as the plain MLP of this depth has, each layer but the first with a skip.

    Args:
        context: for the shapes.
        norm_layer: makes a norm from a number of channels.
        depth: hidden layers, `layer1` to `layer{depth}`.
        width: of each.
        end: makes what each branch ends with, such as `SkipInit`.
    """
    channels, height, images_width = context.input_shape
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    layers["layer1"] = nn.Linear(channels * height * images_width, width, bias=False)
    for layer in range(2, depth + 1):
        layers[f"layer{layer}"] = ResidualLayer(width, norm_layer, end)
    layers |= {"norm": norm_layer(width), "relu": nn.ReLU(), "classes": nn.Linear(width, context.num_classes)}
    return nn.Sequential(OrderedDict(layers))

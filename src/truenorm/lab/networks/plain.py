"""Plain networks: an MLP and a small CNN, with norms of any kind."""

from collections import OrderedDict

from torch import nn

from truenorm.lab.networks.norms import BatchNorm, NormLayer


def mlp(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    norm_layer: NormLayer = BatchNorm,
    widths: tuple[int, ...],
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """Linear → norm → ReLU for each hidden width, and a linear layer for the classes.

    The hidden layers have no bias: the norm behind them takes it away.

    Args:
        input_shape: (channels, height, width) of an image.
        num_classes: outputs.
        norm_layer: makes a norm from a number of channels.
        widths: of the hidden layers.
        activation: instead of the ReLU.

    Example:
        >>> import torch
        >>> mlp((1, 8, 8), 10, widths=(32, 16))(torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    previous = input_shape[0] * input_shape[1] * input_shape[2]
    for depth, width in enumerate(widths, 1):
        layers[f"linear{depth}"] = nn.Linear(previous, width, bias=False)
        layers[f"norm{depth}"] = norm_layer(width)
        layers[f"{activation.__name__.lower()}{depth}"] = activation()
        previous = width
    return nn.Sequential(OrderedDict(layers, classes=nn.Linear(previous, num_classes)))


def cnn(input_shape: tuple[int, int, int], num_classes: int, *, norm_layer: NormLayer = BatchNorm) -> nn.Module:
    """Four 3×3 convolutions (8, 16, 32, 32 channels), each with norm and ReLU, two poolings, global average.

    Example:
        >>> import torch
        >>> cnn((3, 32, 32), 10)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    layers: dict[str, nn.Module] = {}
    previous = input_shape[0]
    for depth, channels in enumerate((8, 16, 32, 32), 1):
        layers[f"conv{depth}"] = nn.Conv2d(previous, channels, 3, padding=1, bias=False)
        layers[f"norm{depth}"] = norm_layer(channels)
        layers[f"relu{depth}"] = nn.ReLU()
        if depth <= 2:
            layers[f"pool{depth}"] = nn.MaxPool2d(2)
        previous = channels
    layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers, classes=nn.Linear(previous, num_classes)))

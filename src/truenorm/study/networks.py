"""The study's networks. Each takes `norm_layer=`, called with the number of channels."""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.data.load import factory
from truenorm.errors import InvalidInput, TruenormError, UnknownName

NormLayer = Callable[[int], nn.Module]
NETWORKS = ("mlp", "cnn")


class BatchNorm(_BatchNorm):
    """torch's batch norm for any number of dimensions, so that a network need not say which.

    Example:
        >>> BatchNorm(3)(torch.randn(4, 3)).shape, BatchNorm(3)(torch.randn(4, 3, 5, 5)).shape
        (torch.Size([4, 3]), torch.Size([4, 3, 5, 5]))
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def mlp(
    input_shape: tuple[int, int, int], num_classes: int, *, norm_layer: NormLayer = BatchNorm, widths: tuple[int, ...]
) -> nn.Module:
    """Linear → norm → ReLU for each hidden width, and a linear layer for the classes.

    The hidden layers have no bias: the norm behind them takes it away.

    Args:
        input_shape: (channels, height, width) of an image.
        num_classes: outputs.
        norm_layer: makes a norm from a number of channels.
        widths: of the hidden layers.

    Example:
        >>> mlp((1, 8, 8), 10, widths=(32, 16))(torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    previous = input_shape[0] * input_shape[1] * input_shape[2]
    for depth, width in enumerate(widths, 1):
        layers[f"linear{depth}"] = nn.Linear(previous, width, bias=False)
        layers[f"norm{depth}"] = norm_layer(width)
        layers[f"relu{depth}"] = nn.ReLU()
        previous = width
    return nn.Sequential(OrderedDict(layers, classes=nn.Linear(previous, num_classes)))


def cnn(input_shape: tuple[int, int, int], num_classes: int, *, norm_layer: NormLayer = BatchNorm) -> nn.Module:
    """Four 3×3 convolutions (8, 16, 32, 32 channels), each with norm and ReLU, two poolings, global average.

    Example:
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


def network_factory(
    name: str, *, input_shape: tuple[int, int, int], num_classes: int, widths: tuple[int, ...]
) -> Callable[[NormLayer], nn.Module]:
    """What makes the named network, given a `norm_layer`.

    Args:
        name: `mlp`, `cnn` or `file.py:factory`. A factory of the user's takes `norm_layer=` and, if it
            likes, `input_shape=` and `num_classes=`.

    Raises:
        UnknownName: no such network.
        InvalidInput: the user's factory cannot be loaded, does not take `norm_layer`, or gives no module.
    """
    if name == "mlp":
        return lambda norm_layer: mlp(input_shape, num_classes, norm_layer=norm_layer, widths=widths)
    if name == "cnn":
        return lambda norm_layer: cnn(input_shape, num_classes, norm_layer=norm_layer)
    if ":" not in name:
        raise UnknownName("network", name, [*NETWORKS, "file.py:factory"])
    return _users_own(name, {"input_shape": input_shape, "num_classes": num_classes})


def _users_own(name: str, offered: dict[str, Any]) -> Callable[[NormLayer], nn.Module]:
    make = factory(name)
    try:
        takes = inspect.signature(make).parameters
    except ValueError as error:  # some of what is written in C tells nothing
        raise InvalidInput(f"{name} does not tell what it takes; wrap it: def make(norm_layer)") from error
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    if "norm_layer" not in takes and not anything:
        raise InvalidInput(
            f"{name} does not take norm_layer=; the study gives it the norm to use: def make(norm_layer)"
        )
    given = partial(make, **{key: value for key, value in offered.items() if key in takes or anything})

    def build(norm_layer: NormLayer) -> nn.Module:
        try:
            network = given(norm_layer=norm_layer)
        except TruenormError:
            raise
        except Exception as error:  # whatever the user's code raises is reported as theirs
            raise InvalidInput(f"{name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise InvalidInput(f"{name} gave {type(network).__name__}, not a torch.nn.Module")
        return network

    return build


def try_network(network: nn.Module, images: Tensor, num_classes: int, *, name: str) -> None:
    """Run one batch before anything is trained, so that what cannot work is said at once.

    Raises:
        InvalidInput: the forward fails, or does not give (N, classes).
    """
    try:
        with torch.no_grad():
            output = network(images)
    except TruenormError:
        raise
    except Exception as error:  # whatever the network raises is reported with its name
        raise InvalidInput(
            f"network {name} fails on images of shape {tuple(images.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor) or output.shape != (len(images), num_classes):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidInput(f"network {name} gives {found}; expected logits of shape {(len(images), num_classes)}")

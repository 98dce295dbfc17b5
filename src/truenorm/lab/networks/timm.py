"""Networks of timm's, with random weights; their batch norms are exchanged after they were made."""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.errors import InvalidInput, UnknownName, extra
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.networks.norms import batch_free_norm, group_norm, paper_groups
from truenorm.model.layers import batch_norms

PREFIX = "timm:"
"""What the name of such a network begins with."""

_MIDDLE: dict[tuple[str, ...], str] = {("bn1", "bn2"): "bn1", ("bn1", "bn2", "bn3"): "bn2"}
"""The norms of a block of two or three convolutions → the one behind its first 3×3."""


def timm_network(
    name: str, *, input_shape: tuple[int, int, int], num_classes: int, bfn: str | None
) -> Callable[[Norm], nn.Module]:
    """What makes one of timm's networks, given the kind of norm.

    - `bn` leaves it as timm made it.
    - `gn` exchanges every batch norm for group norm in groups of about 16 channels.
    - `bn-bfn` exchanges those that `middle_norms` names, where the network is a ResNet (`bfn` None: in 64
      groups); else every second, in the order of registration (`bfn` None: `layer`).

    A new norm takes over γ, β and ε; a layer that holds a dropout and an activation (`BatchNormAct2d`)
    becomes a sequence of norm, dropout and activation.

    Args:
        name: `timm:NAME`, with a name of `timm.list_models()`.
        input_shape: (channels, height, width) of an image; timm is told the channels.
        num_classes: outputs.
        bfn: the batch-free norm of `bn-bfn`: `group:G`, `layer`, `instance` or None.

    Raises:
        MissingExtra: timm is not installed.
        UnknownName: timm has no such network.
        InvalidInput: timm cannot be imported; or, when it is made: timm fails, the network has no batch norm, or
            one that cannot be exchanged.
    """
    timm = _timm()
    own_name = name.removeprefix(PREFIX)
    if not timm.is_model(own_name):
        known: list[str] = timm.list_models()
        near = get_close_matches(own_name, known, n=8, cutoff=0.4)
        raise UnknownName("network of timm's", own_name, [*near, f"… ({len(known)} in timm.list_models())"])

    def build(norm: Norm) -> nn.Module:
        try:
            network: nn.Module = timm.create_model(
                own_name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0]
            )
        except Exception as error:  # each of timm's networks refuses in its own way
            raise InvalidInput(f"{name} failed: {type(error).__name__}: {error}") from error
        try:
            layers = batch_norms(network, tracking=False)
        except InvalidInput as error:
            raise InvalidInput(
                f"{name} has no batch norm to study; take one that has, such as timm:resnet18"
            ) from error
        for layer, make in _exchanges(list(layers), norm, bfn).items():
            parent, _, attribute = layer.rpartition(".")
            setattr(network.get_submodule(parent), attribute, _exchanged(name, layer, layers[layer], make))
        return network

    return build


def middle_norms(names: Iterable[str]) -> set[str]:
    """Which norms of a ResNet are batch-free in BN-BFN: that of the stem and the middle one of each block.

    Args:
        names: of all norms of a network.

    Returns:
        names; none if these are not the names of a ResNet (torchvision's, timm's).

    Source: position P2 of Huang et al. 2022, in their code.

    Example:
        >>> sorted(middle_norms(["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.bn3", "layer1.0.downsample.1"]))
        ['bn1', 'layer1.0.bn2']
        >>> middle_norms(["features.1", "features.4"])
        set()
    """
    names = set(names)
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if found := re.match(r"(layer\d+\.\d+)\.(.+)", name):
            block, own_name = found.groups()
            # Another branch has names of its own, as the parts of a split convolution have.
            blocks[block] += [] if own_name.startswith("downsample.") else [own_name]
    middle = {block: _MIDDLE.get(tuple(own_names)) for block, own_names in blocks.items()}
    if "bn1" not in names or not middle or None in middle.values():
        return set()
    return {"bn1", *(f"{block}.{own_name}" for block, own_name in middle.items())}


def _timm() -> Any:
    with extra("timm"):
        try:
            return import_module("timm")
        except RuntimeError as error:  # torchvision's operators do not fit another build of torch
            raise InvalidInput(
                f"timm is installed and cannot be imported ({error}); install the torchvision made for this torch"
            ) from error


def _exchanges(names: list[str], norm: Norm, bfn: str | None) -> dict[str, Callable[[int], nn.GroupNorm]]:
    if norm == "bn":
        return {}
    if norm == "gn":
        return dict.fromkeys(names, group_norm)
    if middle := middle_norms(names):
        return dict.fromkeys(middle, batch_free_norm(bfn, unless_said=paper_groups))
    return dict.fromkeys(names[1::2], batch_free_norm(bfn))


def _exchanged(network: str, name: str, layer: nn.Module, make: Callable[[int], nn.GroupNorm]) -> nn.Module:
    behind = OrderedDict(layer.named_children())
    known = type(layer).forward is _BatchNorm.forward or list(behind) == ["drop", "act"]
    if not isinstance(layer, _BatchNorm) or not known:
        raise InvalidInput(
            f"layer {name!r} of {network} is a {type(layer).__name__}, for which no batch-free norm can be put in; "
            "take another network"
        )
    norm = make(layer.num_features)
    norm.eps = layer.eps
    norm.weight, norm.bias = layer.weight, layer.bias
    return nn.Sequential(OrderedDict(norm=norm, **behind)) if behind else norm

"""The norms of the study's networks: batch norm, group norm, and batch-free norms among batch norms."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.errors import InvalidInput
from truenorm.lab.networks.kinds import Norm
from truenorm.model.convert import convert
from truenorm.nn.batchfree import BatchFreeNorm, groups_of_16
from truenorm.nn.batchnorm import TrackedBatchNorm

NormLayer = Callable[[int], nn.Module]
"""Makes a norm for a number of channels."""

_PAPER_GROUPS = 64


class BatchNorm(_BatchNorm):
    """torch's batch norm for any number of dimensions, so that a network need not say which.

    Example:
        >>> import torch
        >>> BatchNorm(3)(torch.randn(4, 3)).shape, BatchNorm(3)(torch.randn(4, 3, 5, 5)).shape
        (torch.Size([4, 3]), torch.Size([4, 3, 5, 5]))
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class TrackedAnyBatchNorm(TrackedBatchNorm):
    """truenorm's batch norm for any number of dimensions.

    Example:
        >>> import torch
        >>> TrackedAnyBatchNorm(3)(torch.randn(4, 3, 5)).shape
        torch.Size([4, 3, 5])
    """

    origin = BatchNorm

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def choose_momenta(network: nn.Module) -> None:
    """Let every batch norm choose its momentum (`tracking="dynamic"`), in place.

    Example:
        >>> net = nn.Sequential(BatchNorm(3))
        >>> choose_momenta(net)
        >>> net[0].tracking
        'dynamic'
    """
    for layer in network.modules():
        if type(layer) is BatchNorm:
            module: Any = layer  # the checker knows it as what it no longer is
            module.__class__ = TrackedAnyBatchNorm
    convert(network, tracking="dynamic")


def norm_layer(norm: Norm, *, bfn: str | None = None) -> NormLayer:
    """What makes the layers of one plain network, in the order of its layers; take a new one for each network.

    Args:
        norm: `bn`; `bn-bfn`: every second norm is batch-free, the first is batch norm; `gn`: group norm in
            groups of about 16 channels.
        bfn: the batch-free norm of `bn-bfn`: `group:G`, `layer` or `instance`; None is `layer`.

    Raises:
        InvalidInput: `bfn` is no batch-free norm.

    Source: Huang et al. 2022, whose placement in plain networks this follows as far as it carries over.

    Example:
        >>> make = norm_layer("bn-bfn", bfn="layer")
        >>> [type(make(8)).__name__ for _ in range(3)]
        ['BatchNorm', 'BatchFreeNorm', 'BatchNorm']
    """
    batch_free = batch_free_norm(bfn)
    if norm == "bn":
        return BatchNorm
    if norm == "gn":
        return group_norm
    made = 0

    def alternate(channels: int) -> nn.Module:
        nonlocal made
        made += 1
        return BatchNorm(channels) if made % 2 else batch_free(channels)

    return alternate


def resnet_norm_layers(norm: Norm, *, bfn: str | None = None) -> tuple[NormLayer, NormLayer]:
    """What makes the norms of a ResNet but the middle ones, and what makes these.

    Middle ones are that of the stem and, in each block, that behind its first 3×3 convolution. With
    `bn-bfn` these are batch-free; all others, those of shortcuts among them, are batch norm.

    Args:
        norm: as for `norm_layer`.
        bfn: the batch-free norm of `bn-bfn`; None is group norm in 64 groups (`paper_groups`).

    Raises:
        InvalidInput: `bfn` is no batch-free norm.

    Source: position P2 of Huang et al. 2022, in their code.

    Example:
        >>> others, middle = resnet_norm_layers("bn-bfn")
        >>> type(others(256)).__name__, middle(256).num_groups
        ('BatchNorm', 64)
    """
    batch_free = batch_free_norm(bfn, unless_said=paper_groups)
    if norm == "gn":
        return group_norm, group_norm
    return BatchNorm, BatchNorm if norm == "bn" else batch_free


def group_norm(channels: int) -> BatchFreeNorm:
    """Group norm in groups of about 16 channels.

    Example:
        >>> group_norm(64).num_groups
        4
    """
    return BatchFreeNorm(groups_of_16(channels), channels)


def batch_free_norm(
    bfn: str | None, *, unless_said: Callable[[int], int] = lambda channels: 1
) -> Callable[[int], BatchFreeNorm]:
    """`group:G`, `layer` or `instance` → what makes such a norm for a number of channels.

    Of fewer than G channels each is a group of its own.

    Args:
        bfn: which; None where nothing was said.
        unless_said: the number of groups for None; one, which is `layer`, unless given.

    Raises:
        InvalidInput: it is none of these.

    Example:
        >>> [batch_free_norm("group:4")(channels).num_groups for channels in (16, 2)]
        [4, 2]
    """
    if bfn is None:
        return lambda channels: BatchFreeNorm(unless_said(channels), channels)
    if bfn == "layer":
        return lambda channels: BatchFreeNorm(1, channels)
    if bfn == "instance":
        return lambda channels: BatchFreeNorm(channels, channels)
    kind, _, groups = bfn.partition(":")
    if kind == "group" and groups.isdecimal() and int(groups) > 0:
        return lambda channels: BatchFreeNorm(min(int(groups), channels), channels)
    raise InvalidInput(f"--bfn {bfn!r} is not a batch-free norm; it takes group:G (such as group:4), layer or instance")


def paper_groups(num_channels: int) -> int:
    """64 groups, or as many as divide the channels if that is fewer.

    Source: the scripts of Huang et al. 2022 for ResNets.

    Example:
        >>> [paper_groups(channels) for channels in (32, 64, 256, 96)]
        [32, 64, 64, 48]
    """
    return max(g for g in range(1, min(_PAPER_GROUPS, num_channels) + 1) if num_channels % g == 0)

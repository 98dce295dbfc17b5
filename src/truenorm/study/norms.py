"""The norms of the study's networks: batch norm, batch norm and batch-free norm in turn, group norm."""

from collections.abc import Callable

from torch import nn

from truenorm.errors import InvalidInput
from truenorm.nn.batchfree import BatchFreeNorm, groups_of_16
from truenorm.study.configuration import Norm
from truenorm.study.networks import BatchNorm, NormLayer


def norm_layer(norm: Norm, *, bfn: str) -> NormLayer:
    """What makes the layers of one network; take a new one for each network.

    Args:
        norm: `bn`; `bn-bfn`: every second norm is batch-free, the first is batch norm; `gn`: group norm in
            groups of about 16 channels.
        bfn: the batch-free norm of `bn-bfn`: `group:G`, `layer` or `instance`.

    Source: placement in plain networks after Huang et al. 2022 as far as it carries over.

    Example:
        >>> make = norm_layer("bn-bfn", bfn="layer")
        >>> [type(make(8)).__name__ for _ in range(3)]
        ['BatchNorm', 'BatchFreeNorm', 'BatchNorm']
    """
    batch_free = batch_free_norm(bfn)
    if norm == "bn":
        return BatchNorm
    if norm == "gn":
        return lambda channels: BatchFreeNorm(groups_of_16(channels), channels)
    made = 0

    def alternate(channels: int) -> nn.Module:
        nonlocal made
        made += 1
        return BatchNorm(channels) if made % 2 else batch_free(channels)

    return alternate


def batch_free_norm(bfn: str) -> Callable[[int], BatchFreeNorm]:
    """`group:G`, `layer` or `instance` → what makes such a norm for a number of channels.

    Raises:
        InvalidInput: it is none of these.

    Example:
        >>> batch_free_norm("group:4")(16).num_groups
        4
    """
    if bfn == "layer":
        return lambda channels: BatchFreeNorm(1, channels)
    if bfn == "instance":
        return lambda channels: BatchFreeNorm(channels, channels)
    kind, _, groups = bfn.partition(":")
    if kind == "group" and groups.isdecimal() and int(groups) > 0:
        return lambda channels: BatchFreeNorm(int(groups), channels)
    raise InvalidInput(f"--bfn {bfn!r} is not a batch-free norm; it takes group:G (such as group:4), layer or instance")

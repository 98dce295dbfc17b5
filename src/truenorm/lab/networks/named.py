"""The study's networks by name: plain ones, ResNets, timm's and the user's own."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput, TruenormError, UnknownName, extra
from truenorm.lab.networks.kinds import Norm
from truenorm.lab.networks.norms import batch_free_norm, norm_layer, resnet_norm_layers
from truenorm.lab.networks.plain import cnn, mlp
from truenorm.lab.networks.resnet import RESNETS
from truenorm.lab.networks.timm import PREFIX, timm_network
from truenorm.lab.networks.user import user_digest, user_network
from truenorm.nn.batchfree import BatchFreeNorm

NETWORKS = ("mlp", "cnn", *RESNETS, f"{PREFIX}NAME", "file.py:factory")
"""What a study can be asked for; the last two stand for any network of timm's and of the user's."""


def network_factory(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    widths: tuple[int, ...],
    bfn: str | None = None,
) -> Callable[[Norm], nn.Module]:
    """What makes the named network, given the kind of norm, which it places itself.

    Plain networks (`mlp`, `cnn`, the user's own) take norms in the order of their layers, as `norm_layer`
    gives them; for ResNets see `resnet_norm_layers`, for timm's `timm_network`.

    Args:
        name: one of `NETWORKS`. A factory of the user's takes `norm_layer=` and, if it likes,
            `input_shape=` and `num_classes=`.
        input_shape: (channels, height, width) of an image.
        num_classes: outputs.
        widths: hidden widths of the mlp.
        bfn: the batch-free norm of `bn-bfn`: `group:G`, `layer` or `instance`; None is what the network has
            by itself, group norm in 64 groups for ResNets and `layer` for all others.

    Raises:
        UnknownName: no such network.
        MissingExtra: timm is not installed.
        InvalidInput: `bfn` is no batch-free norm; or the user's factory cannot be loaded, does not take
            `norm_layer`, or (when a network is made) fails or gives no module.

    Example:
        >>> make = network_factory("mlp", input_shape=(1, 8, 8), num_classes=10, widths=(32, 16))
        >>> [type(layer).__name__ for layer in make("bn-bfn")]
        ['Flatten', 'Linear', 'BatchNorm', 'ReLU', 'Linear', 'BatchFreeNorm', 'ReLU', 'Linear']
    """
    batch_free_norm(bfn)  # what is none is said now
    if name.startswith(PREFIX):
        return timm_network(name, input_shape=input_shape, num_classes=num_classes, bfn=bfn)
    if name in RESNETS:
        return partial(_resnet, name, input_shape, num_classes, bfn)
    plain: Callable[..., nn.Module]
    if name == "mlp":
        plain = partial(mlp, input_shape, num_classes, widths=widths)
    elif name == "cnn":
        plain = partial(cnn, input_shape, num_classes)
    elif ":" in name:
        plain = user_network(name, input_shape=input_shape, num_classes=num_classes)
    else:
        raise UnknownName("network", name, NETWORKS)
    # A new norm_layer for each network: it counts the norms it made.
    return lambda norm: plain(norm_layer=norm_layer(norm, bfn=bfn))


def network_digest(name: str) -> str:
    """What tells one content of a named network from another: a finished trial of an older one is not of this.

    Args:
        name: one of `NETWORKS`.

    Returns:
        the SHA-256 of the user's file (not of what it imports), timm's version, or "" for ours, which come
        with truenorm's version.

    Raises:
        MissingExtra: timm is not installed.
        InvalidInput: the user's file or module is not there.

    Example:
        >>> network_digest("resnet18")
        ''
    """
    if name.startswith(PREFIX):
        with extra("timm"):
            return version("timm")
    return user_digest(name) if ":" in name else ""


def _resnet(name: str, input_shape: tuple[int, int, int], num_classes: int, bfn: str | None, norm: Norm) -> nn.Module:
    others, middle = resnet_norm_layers(norm, bfn=bfn)
    return RESNETS[name](input_shape, num_classes, norm_layer=others, middle_norm_layer=middle)


def try_network(network: nn.Module, images: Tensor, num_classes: int, *, name: str) -> None:
    """Run one batch before anything is trained, so that what cannot work is said at once.

    Raises:
        InvalidInput: the forward fails, or does not give (N, classes); a batch-free norm that would collapse
            is named, with the options that help.
    """
    try:
        with torch.no_grad(), _collapse_named(network, name):
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


@contextmanager
def _collapse_named(network: nn.Module, name: str) -> Generator[None]:
    """What a batch-free norm refuses in the block is said with its layer and with the options that help."""
    names = {module: layer for layer, module in network.named_modules() if isinstance(module, BatchFreeNorm)}
    running: list[tuple[BatchFreeNorm, int]] = []

    def begins(module: BatchFreeNorm, given: tuple[Tensor]) -> None:
        running.append((module, given[0].ndim))

    def ends(module: BatchFreeNorm, given: tuple[Tensor], output: Tensor) -> None:
        running.pop()

    hooks = [m.register_forward_pre_hook(begins) for m in names] + [m.register_forward_hook(ends) for m in names]
    try:
        yield
    except InvalidInput as error:
        if not running:
            raise
        module, dims = running[-1]
        larger = "larger images by --image-size" if dims > 2 else "wider layers"
        remedy = f": --bfn layer, or {larger}" if module.num_groups > 1 else f" or, as there is one, {larger}"
        raise InvalidInput(f"network {name}, layer {names[module]!r}: {error}{remedy}") from error
    finally:
        for hook in hooks:
            hook.remove()

"""A network of the user's own, `file.py:factory`."""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from truenorm.data.load import factory
from truenorm.errors import InvalidInput, TruenormError
from truenorm.lab.networks.norms import NormLayer


def user_network(name: str, *, input_shape: tuple[int, int, int], num_classes: int) -> Callable[..., nn.Module]:
    """What makes the user's network, given `norm_layer=`.

    Args:
        name: `file.py:factory` or `package.module:factory`; it takes `norm_layer=` and, if it likes,
            `input_shape=` and `num_classes=`.
        input_shape: (channels, height, width) of an image.
        num_classes: outputs.

    Raises:
        InvalidInput: the factory cannot be loaded or does not take `norm_layer`; or, when a network is made,
            it fails or gives no module.
    """
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
    offered = {"input_shape": input_shape, "num_classes": num_classes}
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


def user_digest(name: str) -> str:
    """The SHA-256 of the file that holds the factory; what it imports does not count.

    Args:
        name: `file.py:factory` or `package.module:factory`.

    Returns:
        64 hexadecimal digits; "" where a module has no file.

    Raises:
        InvalidInput: there is no such file or module.
    """
    place = name.rpartition(":")[0]
    file = Path(place).expanduser()
    if not file.is_file():
        factory(name)  # says what is wrong, or imports what is above the module
        found = find_spec(place)
        file = Path(found.origin if found and found.has_location and found.origin else "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

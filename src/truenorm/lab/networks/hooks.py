"""Hooks on layers that are there for one block only."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(layers: Iterable[nn.Module], hook: Callable[[Any, Any, Any], object]) -> Generator[None]:
    """Call `hook` after each forward of these layers in the block, with the layer, its inputs (a tuple) and its output.

    Args:
        layers: of any network.
        hook: must return None: torch takes anything else for the layer's output.

    Example:
        >>> import torch
        >>> outputs = []
        >>> relu = nn.ReLU()
        >>> with hooked([relu], lambda layer, inputs, output: outputs.append(output)):
        ...     relu(torch.tensor([-1.0]))
        tensor([0.])
        >>> outputs
        [tensor([0.])]
    """
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

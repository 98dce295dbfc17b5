"""Do two networks of the same names do the same: outputs, gradients and buffers, in evaluation and in training?"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.model.evaluate import random_states_kept

_NOISE = 0.01
"""Part of the largest tensor's norm that counts as the scale of one that is nothing but rounding, such as the gradient
of a bias before batch norm."""


def difference(model: nn.Module, other: nn.Module, examples: tuple[Any, ...]) -> str | None:
    """What is not the same, and by how much; None: nothing. Copies are run, from the same random state.

    Two tensors are the same if the norm of their difference is below 2√ε of theirs, ε the precision of their type.

    Args:
        model, other: on the device of the examples.
        examples: what the networks are called with.

    Example:
        >>> net, other = nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU())
        >>> difference(net, net, (torch.ones(2, 3),))
        >>> difference(net, other, (torch.ones(2, 3),))
        'output 0 in evaluation is off by 16 %'
    """
    for mode in ("evaluation", "training"):
        expected, found = (_results(one, examples, mode=mode) for one in (model, other))
        for kind, values in expected.items():
            off = _first_off(values, found[kind])
            if off is not None:
                return f"{kind} {off[0]} in {mode} is off by {off[1]:.2g} %"
    return None


def _results(model: nn.Module, examples: tuple[Any, ...], *, mode: str) -> dict[str, dict[str, Tensor]]:
    with random_states_kept(model), torch.enable_grad():
        copied = copy.deepcopy(model).train(mode == "training")
        copied.zero_grad()
        outputs = [one for one in _tensors(copied(*copy.deepcopy(examples))) if one.is_floating_point()]
        learned = [one.float().square().mean() for one in outputs if one.requires_grad]
        if learned:
            torch.stack(learned).sum().backward()
    return {
        "output": {str(number): one.detach() for number, one in enumerate(outputs)},
        "gradient of": {name: one.grad for name, one in copied.named_parameters() if one.grad is not None},
        "buffer": dict(copied.named_buffers()),
    }


def _first_off(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, float] | None:
    norms = {name: _norm(value) for name, value in expected.items()}
    floor = _NOISE * max(norms.values(), default=0.0)
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape or other.dtype != value.dtype:
            return name, 100.0
        bound = 2 * torch.finfo(value.dtype).eps ** 0.5 if value.is_floating_point() else 0.0
        same = other == value  # infinities have no difference
        off = _norm((other.double() - value.double()).masked_fill(same, 0))
        if not off <= bound * (norms[name] + floor):  # NaN is off, too
            return name, 100 * off / (norms[name] + floor or 1.0)
    return None


def _norm(value: Tensor) -> float:
    return value.double().norm().item()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for one in output.values():
            yield from _tensors(one)
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _tensors(one)

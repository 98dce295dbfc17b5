"""Compare two networks of the same names: outputs, gradients and buffers, in evaluation and in training."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput
from truenorm.model.evaluate import random_states_kept

Mode = Literal["evaluation", "training"]
Kind = Literal["output", "gradient", "buffer"]

_NOISE = 0.01
"""Part of the largest tensor's norm that counts as the scale of a tensor that is only rounding error, such as the
gradient of a bias before batch norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tensor that differs between two networks.

    Args:
        kind: output, gradient of a parameter, or buffer.
        name: of the parameter or buffer; of an output its number.
        mode: in which the networks were run.
        percent: norm of the difference, in per cent of the norm that was expected.
    """

    kind: Kind
    name: str
    mode: Mode
    percent: float

    def __str__(self) -> str:
        kind = "gradient of" if self.kind == "gradient" else self.kind
        return f"{kind} {self.name} in {self.mode} is off by {self.percent:.2g} %"


def first_difference(model: nn.Module, other: nn.Module, example: tuple[Any, ...]) -> Difference | None:
    """The first tensor that differs; None: there is none. Copies are run, from the same random state.

    Two tensors are equal here if the norm of their difference is below 2√ε of their norm, ε the precision of their
    type. Evaluation comes before training, outputs before gradients and buffers.

    Args:
        model, other: on the device of the example.
        example: the arguments that the networks are called with.

    Example:
        >>> net, other = nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU())
        >>> first_difference(net, net, (torch.ones(2, 3),))
        >>> difference = first_difference(net, other, (torch.ones(2, 3),))
        >>> difference.kind, difference.name, difference.mode, round(difference.percent)
        ('output', '0', 'evaluation', 16)
    """
    for mode in get_args(Mode):
        expected, results = (_results(network, example, mode=mode) for network in (model, other))
        for kind, tensors in expected.items():
            difference = _first_of(tensors, results[kind])
            if difference is not None:
                name, percent = difference
                return Difference(kind=kind, name=name, mode=mode, percent=percent)
    return None


def _results(model: nn.Module, example: tuple[Any, ...], *, mode: Mode) -> dict[Kind, dict[str, Tensor]]:
    with random_states_kept(model), torch.enable_grad():
        copied = copy.deepcopy(model).train(mode == "training")
        copied.zero_grad()
        result = copied(*copy.deepcopy(example))
        outputs = list(_tensors(result))
        if not outputs:
            raise InvalidInput(f"the model gives {type(result).__name__}, in which no tensor to compare was found")
        losses = [output.float().square().mean() for output in outputs if output.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()
    return {
        "output": {str(number): output.detach() for number, output in enumerate(outputs)},
        "gradient": {name: value.grad for name, value in copied.named_parameters() if value.grad is not None},
        "buffer": dict(copied.named_buffers()),
    }


def _first_of(expected: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> tuple[str, float] | None:
    norms = {name: _norm(value) for name, value in expected.items()}
    floor = _NOISE * max(norms.values(), default=0.0)
    for name, value in expected.items():
        result = results.get(name)
        if result is None or result.shape != value.shape or result.dtype != value.dtype:
            return name, 100.0
        bound = 2 * torch.finfo(value.dtype).eps ** 0.5 if value.is_floating_point() else 0.0
        equal = result == value  # infinities have no difference
        distance = _norm((result.double() - value.double()).masked_fill(equal, 0))
        if not distance <= bound * (norms[name] + floor):  # NaN differs, too
            return name, 100 * distance / (norms[name] + floor or 1.0)
    return None


def _norm(value: Tensor) -> float:
    return value.double().norm().item()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)

"""Run batches in evaluation: without gradient or compiled code, and not as batches of a watched training."""

import random
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from truenorm.data.batches import Batch
from truenorm.model.layers import has_batch_norm, unwrap
from truenorm.model.statistics import modes_kept, using
from truenorm.model.watch import training_suspended
from truenorm.stats.moments import Moments

Forward = Callable[[nn.Module, Any], Any]
"""`forward(model, batch)`: how to run a batch where `model(images)` is not it."""

Prepare = Callable[[nn.Module], None]
"""Something that is done to a model after it was put into evaluation mode, such as waking its dropout."""


def nothing(model: nn.Module) -> None:
    """No preparation."""


@contextmanager
def evaluating(
    model: nn.Module, statistics: Mapping[str, Moments] | None = None, prepare: Prepare = nothing
) -> Generator[None]:
    """Evaluation mode for the block; modes, buffers and whatever watches the model are as before afterwards.

    Args:
        model: the network.
        statistics: what its layers divide by in the block; None: what they carry.
        prepare: done to the model in evaluation mode.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> with evaluating(net):
        ...     run(net, torch.ones(1, 2)).requires_grad
        False
        >>> net.training
        True
    """
    swapped = using(model, statistics) if has_batch_norm(model) else modes_kept(model)
    with training_suspended(model), other_buffers_kept(model), swapped, torch.no_grad(), uncompiled():
        model.eval()
        prepare(model)
        yield


@contextmanager
def other_buffers_kept(model: nn.Module) -> Generator[None]:
    """Restore the buffers beside batch norm on exit: ranges of simulated quantisation move in evaluation, too.

    Example:
        >>> from torch.ao.quantization import MinMaxObserver
        >>> observer = MinMaxObserver()
        >>> with other_buffers_kept(observer):
        ...     _ = observer(torch.ones(2))
        >>> observer.max_val
        tensor(-inf)
    """
    saved = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, buffer in module._buffers.items()  # pyright: ignore[reportPrivateUsage]  # its own alone
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, values in saved:
            module._buffers[name] = buffer  # pyright: ignore[reportPrivateUsage]  # the same tensor, not a copy of it
            if buffer.shape != values.shape:
                buffer.data = values
            elif not torch.equal(buffer, values):
                buffer.data.copy_(values)


def run(model: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """The model's output for one batch, on the model's device.

    Data parallelism is left out: it would exchange buffers with processes that may not be looking.

    Example:
        >>> run(nn.Flatten(), (torch.ones(2, 3, 1), torch.zeros(2))).shape
        torch.Size([2, 3])
    """
    here = Batch.of(batch).to(device_of(model))
    return unwrap(model)(here.given) if forward is None else forward(model, here.raw)


def device_of(model: nn.Module) -> torch.device:
    """Where the model is: the device of its first parameter, else buffer, else the CPU.

    Example:
        >>> device_of(nn.Flatten())
        device(type='cpu')
    """
    first = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if first is None else first.device


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled models as they were written: compiled code ignores hooks that came after its compilation."""
    # The stance belongs to the compiler, which takes seconds to import; unless it is there, nothing is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def random_states_kept(model: nn.Module) -> Generator[None]:
    """Restore the random states of torch, numpy and Python on exit: a loader that shuffles draws from them."""
    devices = {value.device for value in (*model.parameters(), *model.buffers()) if value.device.type == "cuda"}
    plain, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


@contextmanager
def seeded(model: nn.Module, *data: object) -> Generator[None]:
    """Random numbers from a fixed seed for the block, so that the same call draws the same; states are restored.

    Args:
        model: the network.
        data: loaders; the generators that they or their samplers own are restored, too.

    Example:
        >>> with seeded(nn.Flatten()):
        ...     first = torch.rand(1)
        >>> with seeded(nn.Flatten()):
        ...     torch.rand(1) == first
        tensor([True])
    """
    generators = [generator for loader in data for generator in _generators(loader)]
    states = [generator.get_state() for generator in generators]
    try:
        with random_states_kept(model):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loader: object) -> list[torch.Generator]:
    """Of a loader, its sampler and its batch sampler, each once."""
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    owners = [loader, *samplers, getattr(samplers[1], "sampler", None)]
    generators = [getattr(owner, "generator", None) for owner in owners if owner is not None]
    return list({id(value): value for value in generators if isinstance(value, torch.Generator)}.values())

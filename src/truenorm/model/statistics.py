"""Read the running statistics of a model, write others, or swap them for a block."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.freeze import StaysFrozen
from truenorm.model.layers import batch_norms, refuse_programs, stored_by
from truenorm.nn.batchnorm import TrackedBatchNorm
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics


def statistics(model: nn.Module) -> Statistics:
    """The running statistics that the model's layers carry: a copy, which later training does not change.

    Returns:
        a mapping from layer names (those of `model.named_modules()`) to moments without counts; its `momenta` are those
        that layers with `tracking="dynamic"` have chosen.

    Raises:
        InvalidInput: the model has no batch-norm layer with running statistics.

    Example:
        >>> from torch import nn
        >>> statistics(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))["1"].var.tolist()
        [1.0, 1.0, 1.0]
    """
    layers = batch_norms(model)
    chosen = {
        name: layer.chosen_momentum
        for name, layer in layers.items()
        if isinstance(layer, TrackedBatchNorm) and layer.tracking == "dynamic"
    }
    return Statistics(
        {name: _carried(layer) for name, layer in layers.items()},
        momenta={name: momentum for name, momentum in chosen.items() if momentum is not None},
    )


def assign(model: nn.Module, stats: Mapping[str, Moments]) -> Statistics:
    """Write statistics into the model, in place; all of them or, on any error, none.

    Args:
        model: the network; its buffers keep their identity, type and device.
        stats: may name some of the layers only; the others are left alone.

    Returns:
        what the written layers carried before: assigning that is the undo.

    Raises:
        UnknownName: a layer the model does not have.
        InvalidInput: another number of channels; a mean or variance that is not finite, or negative, or
            does not fit the buffer's type.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> before = assign(net, {"0": Moments(torch.ones(2), torch.full((2,), 4.0))})
        >>> net[0].running_var.tolist(), assign(net, before)["0"].var.tolist(), net[0].running_var.tolist()
        ([4.0, 4.0], [4.0, 4.0], [1.0, 1.0])
    """
    layers = batch_norms(model)
    writes: list[tuple[Tensor, Tensor]] = []
    for name, moments in stats.items():
        if name not in layers:
            raise UnknownName("layer", name, layers)
        layer = layers[name]
        stored = stored_by(layer)
        spread_type = getattr(layer, stored.spread).dtype
        mean_type = spread_type if stored.mean is None else getattr(layer, stored.mean).dtype
        mean = _fitting(name, "mean", stored.num_channels, mean_type, moments.mean)
        var = _fitting(name, "variance", stored.num_channels, spread_type, moments.var)
        for key, values in stored.tensors(mean, var).items():
            buffer = getattr(layer, key)
            writes.append((buffer, values.to(buffer.device)))
    previous = Statistics({name: _carried(layers[name]) for name in stats})
    before = [buffer.detach().clone() for buffer, _ in writes]
    try:
        with torch.no_grad():
            for buffer, values in writes:
                # Past autograd's version counter, as torch's own batch norm writes: an earlier graph may hold it.
                buffer.data.copy_(values)
    except BaseException:  # Ctrl-C between two layers must not leave half of them written
        with torch.no_grad():
            for (buffer, _), values in zip(writes, before, strict=True):
                buffer.data.copy_(values)
        raise
    return previous


@contextmanager
def using(model: nn.Module, stats: Mapping[str, Moments] | None = None) -> Generator[nn.Module]:
    """Swap statistics into a model for a block; afterwards buffers, counts, momenta and modes are as before.

    Args:
        model: the network.
        stats: what to swap in; None only undoes what the block does.

    Yields:
        the model.

    Raises:
        InvalidInput: the model is a program (TorchScript, `torch.export`), or part of it is.
        what `assign` raises, before the block runs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> with using(net, {"0": Moments(torch.ones(2), torch.ones(2))}):
        ...     net[0].running_mean.tolist()
        [1.0, 1.0]
        >>> net[0].running_mean.tolist()
        [0.0, 0.0]
    """
    layers = batch_norms(model, tracking=False)
    refuse_programs(model)
    saved = [(layer, _saved(layer)) for layer in layers.values()]
    held = [train for layer in layers.values() if isinstance(train := layer.__dict__.get("train"), StaysFrozen)]
    asked = [train.mode for train in held]
    try:
        with modes_kept(model):
            if stats is not None:
                assign(model, stats)
            yield model
    finally:
        for layer, (buffers, copies, momentum) in saved:
            _put_back(layer, buffers, copies, momentum)
        for train, mode in zip(held, asked, strict=True):
            train.mode = mode


@contextmanager
def modes_kept(model: nn.Module) -> Generator[nn.Module]:
    """Restore every module's mode on exit.

    Example:
        >>> net = nn.ReLU()
        >>> with modes_kept(net):
        ...     _ = net.eval()
        >>> net.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]  # wrappers before what they hold
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _carried(layer: nn.Module) -> Moments:
    return Moments(*stored_by(layer).read(layer))


def _saved(layer: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, Tensor], Any]:
    buffers = dict(layer._buffers)  # pyright: ignore[reportPrivateUsage]  # the tensors themselves, to put them back
    copies = {key: value.detach().clone() for key, value in buffers.items() if value is not None}
    return buffers, copies, layer.__dict__.get("momentum", ...)


def _put_back(layer: nn.Module, buffers: dict[str, Tensor | None], copies: dict[str, Tensor], momentum: Any) -> None:
    layer._buffers.update(buffers)  # pyright: ignore[reportPrivateUsage]  # the same tensors, not copies of them
    for key, values in copies.items():
        buffer = buffers[key]
        assert buffer is not None
        # Past autograd's version counter: the graph of an earlier forward finds what it left.
        buffer.data.copy_(values)
    if momentum is not ...:
        layer.__dict__["momentum"] = momentum


def _fitting(name: str, what: str, num_channels: int, dtype: torch.dtype, values: Tensor) -> Tensor:
    if tuple(values.shape) != (num_channels,):
        raise InvalidInput(
            f"layer {name!r} has {num_channels} channels, the {what} given has shape {tuple(values.shape)}; "
            "were the statistics taken from the same network?"
        )
    if not dtype.is_floating_point:
        raise InvalidInput(
            f"the running {what} of layer {name!r} has type {dtype}, which cannot hold it; "
            "convert the buffer to float32 first; nothing was assigned"
        )
    converted = values.detach().to(dtype)
    if not bool(converted.isfinite().all()):
        cause = "not finite" if not bool(values.isfinite().all()) else f"too large for {dtype}"
        raise InvalidInput(f"the {what} given for layer {name!r} is {cause}; nothing was assigned")
    if what == "variance" and bool((converted < 0).any()):
        raise InvalidInput(f"the variance given for layer {name!r} is negative; nothing was assigned")
    return converted

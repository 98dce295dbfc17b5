"""Which modules of a network are batch norm, and what they are called."""

import re

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]  # likewise
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from truenorm.errors import InvalidInput
from truenorm.model.stored import Stored


def batch_norms(model: nn.Module, *, tracking: bool = True) -> dict[str, nn.Module]:
    """The batch-norm layers that carry running statistics, by name, in the order of registration.

    They are torch's (Sync and subclasses with an activation among them) and every other module whose buffers are
    statistics by name and form (`truenorm.model.stored`): `running_mean` and `running_var`, `moving_mean` and
    `moving_std`, a variance alone; instance norm aside. Wrappers (`torch.compile`, data
    parallelism) leave no trace in the names. A module that is used twice is listed once.

    Args:
        model: the network.
        tracking: only layers that have running statistics; False: all.

    Raises:
        InvalidInput: there is none; or a lazy one has not seen its first batch.

    Example:
        >>> list(batch_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
        ['1']
    """
    layers: dict[str, nn.Module] = {}
    without: list[str] = []
    for path, module in unwrap(model).named_modules():
        if isinstance(module, _InstanceNorm) or not _looks_like_batch_norm(module):
            continue
        name = ".".join(part for part in path.split(".") if part != "_orig_mod")
        if any(isinstance(buffer, UninitializedBuffer) for buffer in module.buffers(recurse=False)):
            raise InvalidInput(f"layer {name!r} is lazy and has no shape yet; run one batch through the model first")
        if tracking and Stored.of(module) is None:
            without.append(name)
        else:
            layers[name] = module
    if not layers:
        reason = f" ({', '.join(without)}: track_running_stats=False)" if without else ""
        raise InvalidInput(f"{type(model).__name__} has no batch-norm layer with running statistics{reason}")
    return layers


def has_batch_norm(model: nn.Module) -> bool:
    """Whether `batch_norms(model, tracking=False)` finds a layer.

    Example:
        >>> has_batch_norm(nn.Sequential(nn.Linear(2, 3))), has_batch_norm(nn.BatchNorm1d(3))
        (False, True)
    """
    return any(not isinstance(m, _InstanceNorm) and _looks_like_batch_norm(m) for m in unwrap(model).modules())


def like_batch_norm(model: nn.Module) -> list[str]:
    """Modules that are not among `batch_norms`, and have buffers named as statistics are: they may be of another make.

    A buffer counts if its name has a mean or spread behind another word, as in `batch_mean` or `running_var_0`;
    constants of a preprocessing are usually called `mean` and `std`, or `pixel_mean` and `pixel_std`.

    Example:
        >>> norm = nn.Linear(2, 3)
        >>> norm.register_buffer("batch_mean", torch.zeros(3))
        >>> like_batch_norm(nn.Sequential(norm))
        ['0']
    """
    names: list[str] = []
    for name, module in unwrap(model).named_modules():
        buffers = module._buffers.items()  # pyright: ignore[reportPrivateUsage]  # its own alone
        statistics = [
            name
            for name, value in buffers
            if value is not None and not isinstance(value, UninitializedBuffer)
            if (value.is_floating_point() or value.is_complex()) and value.numel() > 1
            if _STATISTIC.search(name) and not _CONSTANT.match(name)
        ]
        if statistics and not isinstance(module, _InstanceNorm) and not _looks_like_batch_norm(module):
            names.append(name or type(module).__name__)
    return names


def statistic_keys(model: nn.Module) -> set[str]:
    """The names of all running statistics in the state dict.

    Example:
        >>> sorted(statistic_keys(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
        ['1.running_mean', '1.running_var']
    """
    keys: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, _InstanceNorm) and (stored := Stored.of(module)) is not None:
            buffers = (stored.mean, stored.spread)
            keys |= {f"{name}.{buffer}".removeprefix(".") for buffer in buffers if buffer is not None}
    return keys


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile` and data parallelism.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> unwrap(nn.DataParallel(net)) is net
        True
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # pyright: ignore[reportPrivateUsage]  # the class is slow to import
            model = model.get_submodule("_orig_mod")
        else:
            return model


def is_program(module: nn.Module) -> bool:
    """Is the module TorchScript, or the program that `torch.export` gives? Its forward is fixed, with its modes.

    Example:
        >>> is_program(nn.ReLU())
        False
    """
    return isinstance(module, torch.jit.ScriptModule) or _is_exported(module)


def refuse_without_numbers(model: nn.Module) -> None:
    """Refuse a model that cannot be run: a lazy part has no shape yet, or a part is on the meta device.

    Raises:
        InvalidInput: so it is, with the name of the first tensor.

    Example:
        >>> refuse_without_numbers(nn.Linear(2, 2))
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            raise InvalidInput(f"{name} is lazy and has no shape yet; run one batch through the model first")
        if value.is_meta:
            raise InvalidInput(f"{name} is on the meta device, where there are no numbers; load the weights first")


def refuse_programs(model: nn.Module) -> None:
    """Refuse a model whose batch norm lies in a program: no mode, hook or buffer of it can be changed for a while.

    Raises:
        InvalidInput: the model or a part of it is such a program. Nothing was touched.

    Example:
        >>> refuse_programs(nn.Sequential(nn.BatchNorm1d(2)))
    """
    for name, module in unwrap(model).named_modules():
        if _is_exported(module) or (is_program(module) and any(map(_looks_like_batch_norm, module.modules()))):
            where = f"module {name!r}" if name else "the model"
            raise InvalidInput(
                f"{where} is {'an exported' if _is_exported(module) else 'a TorchScript'} program, whose batch norm "
                "can only be read; use the module that it was made from, and script or export that afterwards; "
                "nothing was changed"
            )


def _is_exported(module: nn.Module) -> bool:
    # torch.export covers eval() and train() on the object, by functions that raise.
    return isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)


_STATISTIC = re.compile(r".(mean|var|std|sigma)", re.IGNORECASE)
_CONSTANT = re.compile(
    r"(pixel|image|img|rgb|data|input|target|output|label|imagenet|posterior|latent|action|obs|observation|state|log)s?_",
    re.IGNORECASE,
)


def stored_by(layer: nn.Module) -> Stored:
    """The form in which a layer that `batch_norms` listed keeps its statistics."""
    stored = Stored.of(layer)
    assert stored is not None
    return stored


def _looks_like_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or Stored.of(module) is not None

"""The behaviour of a network's batch norms, each called with a few rows of what it really gets."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from truenorm.data.batches import Batch
from truenorm.model.evaluate import Forward, evaluating, random_states_kept, run
from truenorm.model.layers import is_program, unwrap
from truenorm.model.probe import BY_BATCH, Behaviour, behaviour_of, takes_its_batch
from truenorm.model.scratch import is_swappable
from truenorm.model.stored import Stored


def behaviours(model: nn.Module, batch: Batch, forward: Forward | None) -> dict[str, Behaviour]:
    """The behaviour of every module that stores statistics or has no parts, and is not torch's, by name.

    One forward in evaluation mode gives each module an input that it really gets; the calls are made on copies of the
    modules. A module that was not reached, cannot be copied or takes no tensor is left out: it was not understood.

    Args:
        model: the network; state, modes, hooks and random states come out as they were.
        batch: which is run.
        forward: how to run it.

    Example:
        >>> behaviours(nn.Sequential(nn.BatchNorm1d(3)), Batch.of([]), None)
        {}
    """
    asked = {name: module for name, module in unwrap(model).named_modules() if _is_asked(module)}
    found: dict[str, Behaviour] = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            if name not in found and (behaviour := behaviour_of(module, inputs, named)) is not None:
                found[name] = behaviour

        return hook

    if not asked:
        return {}
    handles = [module.register_forward_pre_hook(look(name), with_kwargs=True) for name, module in asked.items()]
    try:
        with random_states_kept(model), evaluating(model):
            run(model, batch, forward)
    finally:
        for handle in handles:
            handle.remove()
    return {name.replace("_orig_mod.", ""): behaviour for name, behaviour in found.items()}


def behaviours_without_data(model: nn.Module) -> dict[str, Behaviour]:
    """What is certain without data: layers that take their batch in eval(), too.

    Example:
        >>> behaviours_without_data(nn.Sequential(nn.BatchNorm1d(3)))
        {}
    """
    layers = {name: layer for name, layer in unwrap(model).named_modules() if Stored.of(layer) is not None}
    return {
        name.replace("_orig_mod.", ""): BY_BATCH
        for name, layer in layers.items()
        if _is_asked(layer) and takes_its_batch(layer)
    }


def _is_asked(module: nn.Module) -> bool:
    """Modules that keep statistics, and innermost ones that are not torch's: they may normalise by their batch."""
    if is_program(module) or is_swappable(module):
        return False
    if Stored.of(module) is not None:
        return True
    return not any(module.children()) and not type(module).__module__.startswith("torch.")

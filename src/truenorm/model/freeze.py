"""Freeze batch norm so that it stays frozen: `model.train()` does not wake it.

Nothing of a layer is exchanged or copied. Its `train` method is covered, on the object, by one that keeps it in
evaluation mode; so buffers, counts, parameters, momentum, hooks, sharing and the state dict are untouched, and
what was asked for meanwhile is done when it is thawed.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.layers import batch_norms, refuse_programs
from truenorm.model.probe import takes_its_batch
from truenorm.model.scratch import is_swappable
from truenorm.model.stored import Stored

_AFFINE = "affine_before_freeze"
"""Where a layer remembers which of its parameters were trained."""


def freeze(
    model: nn.Module, names: str | Sequence[str] = "*", *, statistics: bool = True, affine: bool = False
) -> tuple[str, ...]:
    """Hold batch-norm layers in evaluation mode, whatever `train()` says; in place, undone by `unfreeze`.

    A frozen layer normalises by its stored statistics and never updates them, in training too: `train()` on
    it or on anything above it, data parallelism, `torch.compile`, copies and pickles leave it frozen. Turning
    gradients off alone does not do that: statistics are no parameters.

    Args:
        model: the network; 1d, 2d, 3d, Sync, layers that hold an activation, with or without γ and β.
        names: layers by name; shell patterns such as `"layer1.*"`.
        statistics: hold the running statistics.
        affine: turn the gradients of γ and β off as well.

    Returns:
        the names of the layers that matched.

    Raises:
        UnknownName: a pattern that fits no layer.
        InvalidInput: neither of the two is to be frozen; a layer has no running statistics to hold
            (`track_running_stats=False`) or normalises by its batch whatever its mode; the model is a program
            (TorchScript, `torch.export`). Nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> freeze(net), net.train()[1].training
        (('1',), False)
        >>> unfreeze(net), net[1].training
        (('1',), True)
    """
    if not (statistics or affine):
        raise InvalidInput("nothing is to be frozen: statistics=False and affine=False")
    layers = _matching(model, names)
    for name, layer in layers.items():
        if statistics and not tracks(layer):
            raise InvalidInput(
                f"layer {name!r} has no running statistics (track_running_stats=False): it normalises by its batch in "
                "eval() too, and there is nothing to freeze; nothing was changed"
            )
        if statistics and not is_swappable(layer) and takes_its_batch(layer):
            raise InvalidInput(
                f"layer {name!r} ({type(layer).__name__}) normalises by its batch in eval(), too, so that its "
                "statistics cannot be frozen; let its forward pass training=self.training to batch_norm; "
                "nothing was changed"
            )
    if affine:
        # All are looked at before any is changed: layers may share a parameter.
        open_ones = [layer for layer in layers.values() if _AFFINE not in layer.__dict__]
        learning = [{key: v.requires_grad for key, v in layer.named_parameters(recurse=False)} for layer in open_ones]
        for layer, before in zip(open_ones, learning, strict=True):
            layer.__dict__[_AFFINE] = before
            for value in layer.parameters(recurse=False):
                value.requires_grad_(False)
    for layer in layers.values():
        if statistics and not is_frozen(layer):
            layer.__dict__["train"] = StaysFrozen(layer)
    return tuple(layers)


def unfreeze(model: nn.Module, names: str | Sequence[str] = "*") -> tuple[str, ...]:
    """Undo `freeze`: the mode that was last asked for, and the gradients that were on.

    Args:
        model: the network; what is not frozen is left alone.
        names: as for `freeze`.

    Returns:
        the names of the layers that were frozen.

    Raises:
        UnknownName: a pattern that fits no layer.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(3))
        >>> _ = freeze(net, affine=True)
        >>> unfreeze(net, "0"), net[0].weight.requires_grad
        (('0',), True)
    """
    thawed: list[str] = []
    for name, layer in _matching(model, names).items():
        held = layer.__dict__.get("train")
        if isinstance(held, StaysFrozen):
            held.leave()
        trained: dict[str, bool] | None = layer.__dict__.pop(_AFFINE, None)
        for key, value in layer.named_parameters(recurse=False):
            if trained is not None:
                value.requires_grad_(trained.get(key, True))
        if isinstance(held, StaysFrozen) or trained is not None:
            thawed.append(name)
    return tuple(thawed)


def is_frozen(layer: nn.Module) -> bool:
    """Is the layer held in evaluation mode by `freeze`?

    Example:
        >>> is_frozen(nn.BatchNorm1d(2))
        False
    """
    return isinstance(layer.__dict__.get("train"), StaysFrozen)


def tracks(layer: Any) -> bool:
    """Does the layer store statistics?"""
    return Stored.of(layer) is not None


class StaysFrozen:
    """Covers a layer's `train`. It remembers the mode that was asked for; copies and pickles go with their layer."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._covered = layer.__dict__.get("train")  # somebody else's, on this object
        self.mode = layer.training
        layer.training = False

    def leave(self) -> None:
        """The layer's own `train` again, and the mode that was last asked for."""
        del self._layer.__dict__["train"]
        if self._covered is not None:
            self._layer.__dict__["train"] = self._covered
        self._layer.training = self.mode

    def __call__(self, mode: bool = True) -> nn.Module:
        self.mode = mode
        for child in self._layer.children():  # an activation that the layer holds has a mode of its own
            child.train(mode)
        return self._layer


def _matching(model: nn.Module, names: str | Sequence[str]) -> dict[str, Any]:
    layers = batch_norms(model, tracking=False)
    refuse_programs(model)
    patterns = (names,) if isinstance(names, str) else tuple(names)
    if not patterns:
        raise InvalidInput("no names were given; '*' is all layers")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise UnknownName("layer", pattern, layers)
    return {name: layer for name, layer in layers.items() if any(fnmatchcase(name, p) for p in patterns)}

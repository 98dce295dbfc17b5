"""What can be read off batch-norm layers without running them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.model.freeze import is_frozen
from truenorm.model.layers import batch_norms
from truenorm.model.probe import AS_TORCH, Behaviour
from truenorm.model.stored import Stored
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One batch-norm layer.

    Args:
        name: as `model.named_modules()` has it.
        kind: its class.
        num_channels: C.
        stored: what evaluation divides by, with 0 and 1 for means and spreads that the output does not depend on; None
            without running statistics, or where the output depends on neither.
        keeps_none: it has no buffers for statistics.
        switched_off: it has statistics, and `track_running_stats=False`.
        momentum: torch's; None averages, or the layer has none, or chooses it.
        eps: ε.
        batches: `num_batches_tracked`; None where nobody counts.
        training: its mode.
        frozen: held by `truenorm.freeze`.
        gamma: |γ| of shape (C,), ones without.
        learns: whether γ or β have gradients; None without them.
        dtype: of the buffers.
        pooled: whether it keeps pooled statistics (ours).
        behaviour: what its output depends on, as far as that is known: torch's without data.
    """

    name: str
    kind: str
    num_channels: int
    stored: Moments | None
    keeps_none: bool
    switched_off: bool
    momentum: float | None
    eps: float
    batches: int | None
    training: bool
    frozen: bool
    gamma: Tensor
    learns: bool | None
    dtype: torch.dtype
    pooled: bool
    behaviour: Behaviour = AS_TORCH

    @property
    def damaged(self) -> bool:
        """Are the stored statistics no statistics: not finite, or of negative variance?"""
        if self.stored is None:
            return False
        both = torch.stack([self.stored.mean.double(), self.stored.var.double()])
        return not bool(both.isfinite().all()) or bool((self.stored.var < 0).any())

    @property
    def untouched(self) -> bool:
        """Are the stored statistics the initial 0 and 1?"""
        return self.stored is not None and bool((self.stored.mean == 0).all() and (self.stored.var == 1).all())


def layers_of(model: nn.Module, behaviours: Mapping[str, Behaviour] = MappingProxyType({})) -> dict[str, Layer]:
    """Every batch-norm layer of a model, in the order of registration.

    Args:
        model: the network.
        behaviours: of layers whose forward is not torch's.

    Raises:
        InvalidInput: there is none.

    Example:
        >>> layers_of(nn.Sequential(nn.BatchNorm1d(2)))["0"].untouched
        True
    """
    layers = batch_norms(model, tracking=False)
    return {name: _layer(name, module, behaviours.get(name, AS_TORCH)) for name, module in layers.items()}


def comparable(statistics: Statistics, layers: Mapping[str, Layer]) -> Statistics:
    """Statistics on the CPU, without what no output depends on: unused means and spreads, layers that use neither.

    Small tensors of many layers: comparing them elsewhere would wait for the device each time.
    """
    found: dict[str, Moments] = {}
    for name, part in statistics.items():
        if layers[name].stored is not None:
            found[name] = _used(replace(part, mean=part.mean.cpu(), var=part.var.cpu()), layers[name].behaviour)
    return Statistics(found, provenance=statistics.provenance)


def _used(moments: Moments, behaviour: Behaviour) -> Moments:
    return replace(
        moments,
        mean=moments.mean if behaviour.uses_mean else torch.zeros_like(moments.mean),
        var=moments.var if behaviour.uses_spread else torch.ones_like(moments.var),
    )


def stored_statistics(layers: dict[str, Layer]) -> Statistics:
    """What the layers carry."""
    return Statistics({name: layer.stored for name, layer in layers.items() if layer.stored is not None})


def _layer(name: str, module: Any, behaviour: Behaviour) -> Layer:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    affine = [value for value in (weight, bias) if isinstance(value, nn.Parameter)]
    form = Stored.of(module)
    stored = None
    if form is not None and (behaviour.uses_mean or behaviour.uses_spread):
        mean, var = form.read(module)
        stored = _used(Moments(mean.cpu(), var.cpu()), behaviour)
    channels = form.num_channels if form is not None else int(module.num_features)
    count = getattr(module, "num_batches_tracked", None)
    # One that the layer chooses as it trains is no setting.
    momentum = None if getattr(module, "tracking", "torch") == "dynamic" else getattr(module, "momentum", None)
    gamma = weight.detach().abs().double().cpu() if isinstance(weight, Tensor) else torch.ones(channels).double()
    return Layer(
        name=name,
        kind=type(module).__name__,
        num_channels=channels,
        stored=stored,
        keeps_none=form is None,
        switched_off=stored is not None and not getattr(module, "track_running_stats", True),
        momentum=None if momentum is None else float(momentum),
        eps=float(getattr(module, "eps", 1e-5)),
        batches=None if count is None else int(count),
        training=module.training,
        frozen=is_frozen(module),
        gamma=gamma,
        learns=any(value.requires_grad for value in affine) if affine else None,
        dtype=form.dtype if form is not None else torch.float32,
        pooled=getattr(module, "tracking", "torch") != "torch",
        behaviour=behaviour,
    )

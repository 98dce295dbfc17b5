"""What the output of a batch norm depends on: found out by small calls, not believed of its class."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from truenorm.model.stored import Stored

_ROWS = 8
"""Rows of a real input that a layer is called with."""

_SAME = 2e-2
"""Relative difference of two outputs below which they are the same: ε makes a small one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a layer's output depends on.

    Args:
        stores: whether it has buffers for statistics.
        by_batch: in eval(), on the other rows of the batch.
        uses_mean, uses_spread: in eval(), on the stored means and spreads.
        normalises: in eval(), it subtracts the stored means (where it uses them) and divides by the stored spreads:
            with other numbers stored it normalises by those.
        trains: in train(), it normalises by its batch or writes what it stores.
        standardises: in train(), its output is the same where all inputs are shifted and scaled alike.
        mean_square: what it stores as a variance is the mean square.

    Example:
        >>> behaviour_of(nn.BatchNorm1d(3), (torch.randn(8, 3),), {}).trains
        True
    """

    stores: bool = True
    by_batch: bool = False
    uses_mean: bool = True
    uses_spread: bool = True
    normalises: bool = True
    trains: bool = True
    standardises: bool = True
    mean_square: bool = False

    @property
    def uses_both(self) -> bool:
        """Whether its output depends on stored means and on stored spreads."""
        return self.uses_mean and self.uses_spread

    @property
    def fixed(self) -> bool:
        """Whether it divides by stored numbers that training never changes."""
        return self.uses_spread and not self.by_batch and not self.trains


AS_TORCH = Behaviour()
"""How torch's own layers behave."""

BY_BATCH = Behaviour(by_batch=True, uses_mean=False, uses_spread=False, normalises=False)
"""How a layer behaves that normalises by its batch in any mode."""


def behaviour_of(layer: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Behaviour | None:
    """Call copies of a layer with a few rows of its input, and compare the outputs; None if that cannot be done.

    With m and v stored, r = f(x; m, v) is a normalisation by them if f(2x; 2m, 4v) = f(x + 1; m + 1, v) = r.

    Args:
        layer: the module; its own buffers, mode and counters are put back.
        inputs, named: what it was called with.
    """
    if isinstance(layer, nn.SyncBatchNorm) and torch.distributed.is_available() and torch.distributed.is_initialized():
        return None  # a call in train() would wait for other processes
    known = _KNOWN.get(layer)
    if known is not None and known[:2] == (type(layer), Stored.of(layer)) and "forward" not in layer.__dict__:
        return known[2]
    saved = {name: value.detach().clone() for name, value in layer.named_buffers()}
    try:
        with torch.no_grad():
            probe = _Probe(layer, inputs, named)
            behaviour = probe.behaviour()
        if probe.num_rows > 1:  # one row has no others to depend on
            _KNOWN[layer] = (type(layer), Stored.of(layer), behaviour)
        return behaviour
    except Exception:  # whatever a module of the user's raises: it is not understood
        return None
    finally:
        for name, value in layer.named_buffers():
            if not torch.equal(value, saved[name]):  # a copy may share them, or write the original's
                value.data.copy_(saved[name])


_KNOWN: WeakKeyDictionary[nn.Module, tuple[type, Stored | None, Behaviour]] = WeakKeyDictionary()
"""What was found out, with the class and the buffers for which it holds: a diagnosis makes many passes."""


class _Probe:
    """A layer, and a few rows to call it with."""

    def __init__(self, layer: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self._layer = layer
        self._stored = Stored.of(layer)
        first = next(value for value in (*inputs, *named.values()) if isinstance(value, Tensor))
        self._first = first
        self.num_rows = min(_ROWS, len(first))
        self._inputs, self._named = inputs, named
        # Numbers that are damaged would hide what the output depends on.
        self._base = None if self._stored is None else _sound(*self._stored.read(layer))

    def behaviour(self) -> Behaviour:
        stored, plain = self._stored, self._called()
        if not plain.ndim or len(plain) != self.num_rows:
            raise ValueError("no row of the output for each row of the input")  # broadcast over others, say
        by_batch = self._depends_on_others(training=False)
        if stored is None:
            standardises = by_batch and self._is_invariant(training=False)
            trains = by_batch or bool(self._written()[1]) or self._depends_on_others(training=True)
            return Behaviour(
                stores=False,
                by_batch=standardises,
                uses_mean=False,
                uses_spread=False,
                normalises=False,
                trains=trains,
                standardises=trains and self._is_invariant(training=True),
            )
        assert self._base is not None
        mean, var = self._base
        std = var.sqrt() + 1e-3
        uses_mean = stored.mean is not None and _differ(self._called(stored=(mean + std, var)), plain)
        uses_spread = _differ(self._called(stored=(mean, 4 * var + 1e-3)), plain)
        try:
            target, written = self._written()
            trains = bool(written) or self._depends_on_others(training=True)
        except Exception:  # for inference only
            target, trains = None, False
        return Behaviour(
            by_batch=by_batch,
            uses_mean=uses_mean,
            uses_spread=uses_spread,
            normalises=uses_spread and not by_batch and self._normalises(uses_mean),
            trains=trains,
            mean_square=not uses_mean and target == "mean square",
        )

    def _normalises(self, uses_mean: bool) -> bool:
        """Is the output the same where input and stored numbers are shifted and scaled alike?"""
        assert self._base is not None
        mean, var = self._base[0], self._base[1] + 1.0  # far above ε
        plain = self._called(stored=(mean, var))
        twice = self._called(stored=(2 * mean, 4 * var), change=lambda x: x.mul(2))
        if _differ(plain, twice):
            return False
        moved = self._called(stored=(mean + 1, var), change=lambda x: x + 1)
        return not uses_mean or not _differ(plain, moved)

    def _is_invariant(self, *, training: bool) -> bool:
        """Is the output the same where all of the input is shifted and scaled alike?"""
        moved = self._called(training=training, change=lambda x: x.mul(2).add(1))
        return not _differ(self._called(training=training), moved)

    def _depends_on_others(self, *, training: bool) -> bool:
        """Does the first row's output change with the other rows?"""

        def others(x: Tensor) -> Tensor:
            changed = 2 * x + 1
            changed[:1] = x[:1]
            return changed

        if self.num_rows < 2:
            return False
        return _differ(self._called(training=training)[:1], self._called(training=training, change=others)[:1])

    def _written(self) -> tuple[str | None, tuple[str, ...]]:
        """What a call in train() brings the spread nearer to, and which buffers it writes."""
        layer = self._copy(training=True)
        before = {name: value.clone() for name, value in layer._buffers.items() if value is not None}  # pyright: ignore[reportPrivateUsage]  # its own alone
        x = self._call(layer, None)[1]
        names = tuple(name for name, value in before.items() if not torch.equal(value, getattr(layer, name)))
        stored = self._stored
        if stored is None or stored.spread not in names:
            return None, names
        moved = getattr(layer, stored.spread).flatten() - before[stored.spread].flatten()
        channels = x.movedim(1 if x.shape[1] == stored.num_channels else -1, 0).flatten(1).double()
        targets = {"variance": channels.var(1), "mean square": channels.square().mean(1)}
        old = before[stored.spread].flatten().double()
        left = {name: _left(moved.double(), target - old) for name, target in targets.items()}
        return min(left, key=lambda name: left[name]), names

    def _called(
        self,
        *,
        training: bool = False,
        stored: tuple[Tensor, Tensor] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        return self._call(self._copy(training=training, stored=stored), change)[0]

    def _copy(self, *, training: bool, stored: tuple[Tensor, Tensor] | None = None) -> nn.Module:
        layer = copy.deepcopy(self._layer)
        layer.training = training
        held = stored or self._base
        if self._stored is not None and held is not None:
            for name, value in self._stored.tensors(*held).items():
                # As a pass puts them there.
                layer._buffers[name] = value.to(self._stored.dtype)  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
        return layer

    def _call(self, layer: nn.Module, change: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
        """The output as a tensor of real numbers, and the rows that were given."""
        torch.manual_seed(0)
        given: list[Tensor] = []

        def few(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.ndim or len(value) != len(self._first):
                return value
            rows = value[: self.num_rows].clone()
            if value is self._first:
                rows = _real(rows)
                rows = rows if change is None else change(rows)
                given.append(rows.clone())
                rows = _like(rows, value)
            return rows

        named = {name: few(value) for name, value in self._named.items()}
        output = layer.forward(*(few(value) for value in self._inputs), **named)
        output = output[0] if isinstance(output, tuple | list) else output
        return _real(output), given[0]


def _sound(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances that are numbers: 0 and 1 where they are not."""
    return mean.where(mean.isfinite(), 0), var.where(var.isfinite() & (var >= 0), 1)


def _real(x: Tensor) -> Tensor:
    return x.dequantize() if x.is_quantized else x


def _like(x: Tensor, other: Tensor) -> Tensor:
    """As the other is quantised, if it is."""
    return torch.quantize_per_tensor(x, other.q_scale(), other.q_zero_point(), other.dtype) if other.is_quantized else x


def _differ(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return True
    a, b = a.double(), b.double()
    size = torch.maximum(a.abs(), b.abs())
    # Of single elements, for padding may be far larger than all else; above what is near 0 beside the others.
    unit = size[size > 0].median() if bool((size > 0).any()) else size.new_ones(())
    return bool(((a - b).abs() > _SAME * size.clamp_min(unit)).any())


def _left(values: Tensor, direction: Tensor) -> float:
    """The part of values that is not along a direction, 0 to 1."""
    power = direction.square().sum()
    along = direction * ((values * direction).sum() / power) if power > 0 else torch.zeros_like(direction)
    return float((values - along).square().sum() / values.square().sum().clamp_min(1e-30))


def takes_its_batch(layer: nn.Module) -> bool:
    """Whether the layer is known to normalise by its batch in eval(), too; found out without data.

    A single input in which the first row's output changes with the others is proof, so that it may be a made-up one; no
    such input proves nothing.

    Example:
        >>> takes_its_batch(nn.BatchNorm1d(2)), takes_its_batch(nn.BatchNorm1d(2, track_running_stats=False))
        (False, True)
    """
    stored = Stored.of(layer)
    num_channels = stored.num_channels if stored is not None else int(getattr(layer, "num_features", 1))
    at = next(layer.buffers(), next(layer.parameters(), torch.empty(0)))
    with torch.random.fork_rng([at.device] if at.device.type == "cuda" else []):
        for dims in range(4):
            x = torch.randn(_ROWS, num_channels, *(2,) * dims, device=at.device)
            behaviour = behaviour_of(layer, (x.to(at.dtype) if at.is_floating_point() else x,), {})
            if behaviour is not None:
                return behaviour.by_batch
    return False

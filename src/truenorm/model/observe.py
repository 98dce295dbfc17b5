"""Observe the input of every batch-norm layer during a pass."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from truenorm import kernels
from truenorm.errors import NotFinite, NotMeasurable
from truenorm.model.layers import stored_by
from truenorm.model.mask import ALL, Valid
from truenorm.model.probe import AS_TORCH, Behaviour, behaviour_of
from truenorm.model.scratch import channel_dim, is_swappable, too_small
from truenorm.model.stream import streams_of
from truenorm.rules import Rule, Within
from truenorm.stats.moments import Moments
from truenorm.stats.provenance import Flow, Provenance
from truenorm.stats.statistics import Statistics


class LayerMoments:
    """The moments of every layer's batches in one pass: hooks that record them in a stream, and the result.

    Args:
        layers: batch-norm layers by name.
        rules: how the moments of the batches are pooled.
    """

    def __init__(self, layers: dict[str, nn.Module], rules: tuple[Rule, ...]) -> None:
        self._layers = layers
        # Of layers whose forward is not torch's, found out by the first input that each gets.
        self._behaviours: dict[str, Behaviour | None] = {
            name: AS_TORCH for name, layer in layers.items() if is_swappable(layer)
        }
        self._fixed: list[str] = []
        self._unfit: dict[str, None] = {}
        self._valid = ALL
        self._rules = rules
        self._order: dict[str, int] = {}
        self._calls: dict[str, int] = {}
        self._repeated: dict[str, None] = {}
        self._names = list(layers)
        self._places = streams_of(layers, rules, scratch=False)
        self._streams = list(dict.fromkeys(stream for stream, _ in self._places))

    def start_batch(self, valid: Valid) -> None:
        """Say which positions of the coming batch are valid."""
        self._valid = valid

    def end_batch(self) -> None:
        """Note a layer that was called more than once for one batch; start counting anew."""
        self._repeated |= dict.fromkeys(name for name, calls in self._calls.items() if calls > 1)
        self._calls.clear()

    def standard_error(self) -> float:
        """The largest standard error of a layer's mean, √(D/N), in σ."""
        moments = [layer for stream in self._streams for layer in stream.read(0, 0)[0].values()]
        return max(map(_error_of_mean, moments), default=math.inf)

    @contextmanager
    def normalising(self, frozen: list[str], *, leave_fixed: bool) -> Generator[None]:
        """Normalise by each batch's moments, and record them.

        Layers that normalise by what they store stay in evaluation mode, with the batch's moments as their buffers;
        those that take their batch in any mode stay as they are; what is not understood is put into training mode.
        The caller restores modes and buffers.

        Args:
            frozen: layers that normalise by what they store.
            leave_fixed: whether layers do so, too, whose class never trains.
        """
        handles: list[RemovableHandle] = []
        try:
            for index, (name, layer) in enumerate(self._layers.items()):
                if name in frozen:
                    continue
                observe = self._observer(index, normalises=True, leave_fixed=leave_fixed)
                handles.append(layer.register_forward_pre_hook(observe, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def observing(self) -> Generator[None]:
        """Normalise by the running statistics, and record the moments of each layer's input."""
        handles: list[RemovableHandle] = []
        try:
            for index, layer in enumerate(self._layers.values()):
                observe = self._observer(index, normalises=False, leave_fixed=False)
                handles.append(layer.register_forward_pre_hook(observe, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _observer(
        self, index: int, *, normalises: bool, leave_fixed: bool
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        name = self._names[index]
        stored = stored_by(self._layers[name])
        num_channels = stored.num_channels

        def observe(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if layer is not self._layers[name] or name in self._fixed:
                return  # a copy of the layer carries the same hook
            if name not in self._behaviours:
                self._behaviours[name] = behaviour_of(layer, inputs, named)
            behaviour = self._behaviours[name]
            if leave_fixed and behaviour is not None and behaviour.fixed:
                self._fixed.append(name)
                return
            swaps = normalises and behaviour is not None and behaviour.normalises
            if normalises and not swaps and not (behaviour is not None and behaviour.by_batch):
                layer.train()
            values = inputs[0] if inputs else None
            if not isinstance(values, Tensor):
                values = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
            dim = None if values is None or values.is_complex() else channel_dim(values, num_channels)
            if dim is None and behaviour is not AS_TORCH:
                self._unfit[name] = None
                return  # parts or steps with statistics of their own, or no tensor: it is left alone, and named
            if values is None or dim is None:
                shape = "no tensor" if values is None else f"shape {tuple(values.shape)}"
                raise NotMeasurable(f"layer {name!r} of {num_channels} channels was given {shape}")
            if not values.numel():
                return  # no rows, as an expert or a detection head may get: nothing to record
            values = values.dequantize() if values.is_quantized else values
            given, values = values, self._valid.rows(values, dim, name)
            count = values.numel() // num_channels
            if normalises and count < 2:
                raise too_small(name, values)
            padded = values.numel() < given.numel()
            if padded and normalises and not swaps and not (behaviour is not None and behaviour.by_batch):
                raise NotMeasurable(
                    f"layer {name!r} ({type(layer).__name__}) normalises by its whole batch, and a mask cannot keep "
                    "padding out of that; measure flow='eval'"
                )
            mean, var = kernels.deliver_moments(values, *self.slot(index))
            self.receive(index, count, None)
            if swaps:
                # In evaluation mode it divides by its buffers: they are swapped for the batch's moments.
                buffers = layer._buffers  # pyright: ignore[reportPrivateUsage]  # setattr would register anew
                assert behaviour is not None
                spread = var + mean.square() if behaviour.mean_square else var
                for key, moments in stored.tensors(mean, spread).items():
                    buffers[key] = moments if moments.dtype == stored.dtype else moments.to(stored.dtype)

        return observe

    def slot(self, index: int) -> tuple[Tensor, Tensor]:
        stream, layer = self._places[index]
        return stream.slot(layer)

    def receive(self, index: int, count: int, momentum: float | None) -> None:
        name = self._names[index]
        self._order.setdefault(name, len(self._order))
        self._calls[name] = self._calls.get(name, 0) + 1
        stream, layer = self._places[index]
        stream.commit(layer, count, training=True, gradient=False)

    def result(self, flow: Flow, seen: int, frozen: list[str], tolerance: float | None) -> list[Statistics]:
        """The statistics by each rule."""
        frozen = [*frozen, *self._fixed]
        return [self._result(rule, flow, seen, frozen, tolerance) for rule in range(len(self._rules))]

    def _result(self, rule: int, flow: Flow, seen: int, frozen: list[str], tolerance: float | None) -> Statistics:
        moments = {
            name: self._as_stored(name, layer)
            for stream in self._streams
            for name, layer in stream.read(rule, 0)[0].items()
        }
        if not moments and len(frozen) == len(self._layers):
            raise NotMeasurable(
                "every batch-norm layer is frozen (by truenorm.freeze, by eval() while the model trains"
                f"{self._by_class()}): nothing to measure"
            )
        if not moments and self._unfit:
            raise NotMeasurable(
                f"the statistics that {', '.join(self._unfit)} store do not fit what they are given (parts of a batch, "
                "steps or domains with statistics of their own, say): they cannot be measured"
            )
        if not moments:
            raise NotMeasurable(
                "no batch-norm layer was reached by any batch; does forward() call the model that is measured?"
            )
        for name, layer in moments.items():
            if not bool((layer.mean + layer.var).isfinite().all()):
                raise NotFinite(f"the values that reach layer {name!r} are not finite; look for NaN or inf in the data")
        provenance = Provenance(
            flow=flow,
            samples=seen,
            variance="within" if isinstance(self._rules[rule], Within) else "pooled",
            standard_error=None if tolerance is None else self.standard_error(),
            frozen=tuple(frozen),
            skipped=tuple(name for name in self._layers if name not in {*moments, *frozen, *self._unfit}),
            unfit=tuple(self._unfit),
            repeated=tuple(self._repeated),
        )
        return Statistics({name: moments[name] for name in self._order if name in moments}, provenance=provenance)

    def _by_class(self) -> str:
        """The classes that never train, for a sentence."""
        kinds = dict.fromkeys(type(self._layers[name]) for name in self._fixed)
        return (
            f", or by its class: {', '.join(f'{kind.__module__}.{kind.__name__}' for kind in kinds)}" if kinds else ""
        )

    def _as_stored(self, name: str, moments: Moments) -> Moments:
        """With the mean square in the place of the variance, where the layer stores that."""
        behaviour = self._behaviours.get(name)
        if behaviour is None or not behaviour.mean_square:
            return moments
        return replace(moments, var=moments.var + moments.mean.square())


def _error_of_mean(moments: Moments) -> float:
    """√(D/N), in σ; 0 for a layer that does not vary, infinite after one batch, from which D is not known."""
    if moments.count and moments.design_effect is not None:
        return math.sqrt(moments.design_effect / moments.count)
    return math.inf if bool((moments.var > 0).any()) else 0.0

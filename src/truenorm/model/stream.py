"""The stream of batch moments of many layers, and the rules that follow it.

Moments are kept as they come, a row per batch, and folded into the rules a block of rows at a time, all
layers at once: so sixteen momenta cost little more than one. Reading folds a copy: the numbers do not
depend on when, or whether, somebody looked.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from truenorm.errors import InvalidInput
from truenorm.model.layers import stored_by
from truenorm.rules import Batches, Layout, Reading, Rule, State
from truenorm.stats.moments import Moments

BLOCK = 32
"""Batches that are folded at once."""


_Row = tuple[int, bool, bool]
"""Values per channel; whether it counts for rules of every training batch; whether for those that need a gradient."""


class Stream:
    """Rows of batch moments of the layers of one device, and the states of the rules.

    Args:
        layers: batch-norm layers by name, all on one device.
        rules: what follows the stream.
        scratch: torch itself writes the moments, into buffers of the layer's own type; where they are written by
            others, they go into the rows at once, in full precision.
    """

    def __init__(self, layers: Mapping[str, nn.Module], rules: Sequence[Rule], *, scratch: bool = True) -> None:
        means = [stored_by(layer).read(layer)[0] for layer in layers.values()]
        eps = tuple(float(getattr(layer, "eps", 1e-5)) for layer in layers.values())
        dtype = torch.float64 if any(mean.dtype == torch.float64 for mean in means) else torch.float32
        self.names = tuple(layers)
        self.layout = layout = Layout(tuple(map(len, means)), eps, means[0].device)
        self.rules = tuple(rules)
        self._ends = torch.tensor(layout.sizes).cumsum(0).tolist()
        self._starts = [0, *self._ends[:-1]]
        self._rows = torch.zeros(2, BLOCK, self._ends[-1], dtype=dtype, device=layout.device)
        # Made once: slicing costs more than what is done with the slice. By `.data`, for autograd keeps what it
        # was given until backward and would refuse that if rows were written in the meantime.
        self._slots: list[list[tuple[Tensor, Tensor]]] = [[] for _ in means]
        # torch wants buffers of the layer's own type; where the rows have another, these are used.
        self._scratch = [
            (torch.zeros_like(mean), torch.zeros_like(mean)) if scratch and mean.dtype != dtype else None
            for mean in means
        ]
        self._pending: list[list[_Row]] = [[] for _ in means]
        self._steps = {"training": [0] * len(means), "gradient": [0] * len(means)}
        self._states = [rule.init(layout) for rule in self.rules]
        self._spans: dict[tuple[int, int], Layout] = {}
        # What was folded and read since the last batch, for whoever reads many rules in a row.
        self._up_to_date: tuple[list[State], dict[str, list[int]]] | None = None
        self._readings: dict[int, Reading] = {}

    @property
    def seen(self) -> bool:
        """Has any batch come?"""
        return any(self._pending) or any(map(any, self._steps.values()))

    def slot(self, layer: int) -> tuple[Tensor, Tensor]:
        """Where this layer's next moments go: mean and unbiased variance."""
        row = len(self._pending[layer])
        if row == BLOCK:
            self.fold()
            row = 0
        slots = self._slots[layer]
        a, b = self._starts[layer], self._ends[layer]
        for t in range(len(slots), row + 1):
            slots.append((self._rows[0, t, a:b].data, self._rows[1, t, a:b].data))
        return self._scratch[layer] or slots[row]

    def commit(self, layer: int, count: int, *, training: bool, gradient: bool) -> None:
        """The slot of this layer holds a batch that counts as training, as one with gradient, or both."""
        pending = self._pending[layer]
        scratch = self._scratch[layer]
        if scratch is not None:
            a, b = self._starts[layer], self._ends[layer]
            for rows, values in zip(self._rows, scratch, strict=True):
                rows[len(pending), a:b].copy_(values)
                values.data.zero_()
        pending.append((count, training, gradient))
        self._forget()

    def fold(self) -> None:
        """Fold the rows into the rules' states."""
        self._states, self._steps = self._folded()
        self._forget()
        self._pending = [[] for _ in self.names]
        # A row is used again and torch adds 0 times what is in it: a NaN would stay for ever.
        self._rows.zero_()

    def end_epoch(self) -> None:
        """Tell the rules that an epoch has ended."""
        self.fold()
        self._states = [rule.end_epoch(state) for rule, state in zip(self.rules, self._states, strict=True)]
        self._forget()

    def set_state(self, rule: int, state: State) -> None:
        """Replace the state of a rule."""
        self.fold()
        self._states[rule] = state
        self._forget()

    def state(self, rule: int) -> State:
        """The state of a rule, all rows folded in."""
        return self._folded()[0][rule]

    def read(self, rule: int, reading: int) -> tuple[dict[str, Moments], dict[str, float]]:
        """Moments and momenta by layer; layers that no counted batch reached are left out."""
        states, steps = self._folded()
        if rule not in self._readings:
            self._readings[rule] = self.rules[rule].read(states[rule], self.layout)
        found = self._readings[rule]
        means, variances = (values[reading].split(self.layout.sizes) for values in (found.mean_KC, found.var_KC))
        counts, effects, rates = (
            [None] * len(self.names) if values is None else values.tolist()
            for values in (
                None if found.count_KC is None else found.count_KC[reading, self._starts],
                None if found.design_effect_KL is None else found.design_effect_KL[reading],
                None if found.momentum_KL is None else found.momentum_KL[reading],
            )
        )
        moments: dict[str, Moments] = {}
        momenta: dict[str, float] = {}
        for layer, name in enumerate(self.names):
            count, effect, rate = counts[layer], effects[layer], rates[layer]
            if steps[self.rules[rule].counts][layer] == 0 or count == 0:
                continue
            moments[name] = Moments(
                means[layer].clone(),
                variances[layer].clone(),
                None if count is None else int(count),
                effect if effect is not None and effect < float("inf") else None,
            )
            if rate is not None:
                momenta[name] = rate
        return moments, momenta

    def _folded(self) -> tuple[list[State], dict[str, list[int]]]:
        if self._up_to_date is None:
            # Folding happens inside the user's forward: under autocast products would come out in half precision.
            with torch.autocast(self.layout.device.type, enabled=False):
                self._up_to_date = self._folded_in_full_precision()
        return self._up_to_date

    def _forget(self) -> None:
        self._up_to_date = None
        self._readings = {}

    def _folded_in_full_precision(self) -> tuple[list[State], dict[str, list[int]]]:
        states = list(self._states)
        steps = {kind: list(counts) for kind, counts in self._steps.items()}
        # Neighbours in the same state are folded as one; in ordinary training that is all layers.
        alike = [
            ([row[1:] for row in pending], steps["training"][layer], steps["gradient"][layer])
            for layer, pending in enumerate(self._pending)
        ]
        for _, group in groupby(range(len(self.names)), key=alike.__getitem__):
            members = list(group)
            first, last = members[0], members[-1] + 1
            pending = self._pending[first]
            if not pending:
                continue
            batches = self._batches(first, last)
            _, training, gradient = zip(*pending, strict=True)
            for kind, counts in (("training", training), ("gradient", gradient)):
                if any(counts):
                    chosen = batches if all(counts) else _select(batches, counts)
                    self._fold_span(states, kind, chosen, steps[kind][first], first, last)
                    for layer in members:
                        steps[kind][layer] += len(chosen)
        return states, steps

    def _fold_span(self, states: list[State], kind: str, batches: Batches, step: int, first: int, last: int) -> None:
        span = self._spans[first, last]
        a, b = self._starts[first], self._ends[last - 1]
        for number, rule in enumerate(self.rules):
            if rule.counts == kind:
                part = _slice(states[number], a, b, first, last)
                states[number] = _put(states[number], rule.update(part, batches, step, span), a, b, first, last)

    def _batches(self, first: int, last: int) -> Batches:
        if (first, last) not in self._spans:
            self._spans[first, last] = self.layout.span(first, last)
        a, b = self._starts[first], self._ends[last - 1]
        counts = [[row[0] for row in self._pending[layer]] for layer in range(first, last)]
        if all(others == counts[0] for others in counts):
            count_TC = torch.tensor(counts[0], dtype=torch.float64, device=self.layout.device)[:, None]
        else:
            count_LT = torch.tensor(counts, dtype=torch.float64, device=self.layout.device)
            count_TC = count_LT[self._spans[first, last].layer_C].T
        rows = self._rows[:, : len(counts[0]), a:b].double()
        return Batches(rows[0], rows[1].mul_((count_TC - 1) / count_TC), count_TC)

    def state_dict(self) -> dict[str, Any]:
        """Everything, rows that are not folded included: plain tensors, numbers and strings."""
        return {
            "names": list(self.names),
            "rules": [name for rule in self.rules for name in rule.names],
            "rows": self._rows.clone(),
            "pending": [[list(row) for row in rows] for rows in self._pending],
            "steps": {kind: list(counts) for kind, counts in self._steps.items()},
            "states": [
                {"channels": _cloned(state.channels), "layers": _cloned(state.layers)} for state in self._states
            ],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the same bits.

        Raises:
            InvalidInput: it was saved of other layers or under other rules.
        """
        for key, here in (("names", list(self.names)), ("rules", [n for rule in self.rules for n in rule.names])):
            if saved.get(key) != here:
                raise InvalidInput(f"the saved watch has other {key} than this one: {saved.get(key)} against {here}")
        if saved["rows"].shape != self._rows.shape:
            raise InvalidInput("the saved watch has layers of other widths; was it saved of another network?")
        self._rows.copy_(saved["rows"])
        self._pending = [[(count, t, g) for count, t, g in rows] for rows in saved["pending"]]
        self._steps = {kind: list(counts) for kind, counts in saved["steps"].items()}
        self._forget()
        self._states = [
            State(
                {key: value.to(self.layout.device, copy=True) for key, value in state["channels"].items()},
                {key: value.to(self.layout.device, copy=True) for key, value in state["layers"].items()},
            )
            for state in saved["states"]
        ]


def streams_of(
    layers: Mapping[str, nn.Module], rules: Sequence[Rule], *, scratch: bool = True
) -> list[tuple[Stream, int]]:
    """A stream for each device; gives, layer by layer, its stream and its place in that."""
    devices: dict[torch.device, dict[str, nn.Module]] = {}
    for name, layer in layers.items():
        devices.setdefault(getattr(layer, stored_by(layer).spread).device, {})[name] = layer
    streams = [Stream(members, rules, scratch=scratch) for members in devices.values()]
    places = {name: (stream, i) for stream in streams for i, name in enumerate(stream.names)}
    return [places[name] for name in layers]


def _select(batches: Batches, counts: Sequence[bool]) -> Batches:
    rows = [row for row, counted in enumerate(counts) if counted]
    return Batches(batches.mean_TC[rows], batches.var_TC[rows], batches.count_TC[rows])


def _slice(state: State, a: int, b: int, first: int, last: int) -> State:
    return State(
        {key: value[..., a:b] for key, value in state.channels.items()},
        {key: value[..., first:last] for key, value in state.layers.items()},
    )


def _put(state: State, part: State, a: int, b: int, first: int, last: int) -> State:
    def inserted(whole: dict[str, Tensor], parts: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
        if all(parts[key].shape == value.shape for key, value in whole.items()):
            return parts
        copies = _cloned(whole)
        for key, value in copies.items():
            value[..., start:end] = parts[key]
        return copies

    return State(inserted(state.channels, part.channels, a, b), inserted(state.layers, part.layers, first, last))


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in tensors.items()}

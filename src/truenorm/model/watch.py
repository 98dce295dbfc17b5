"""Watch a training run: every rule of having statistics, from one run, the run itself unchanged."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from truenorm.errors import InvalidInput, NotMeasurable, UnknownName
from truenorm.model.layers import batch_norms, refuse_programs
from truenorm.model.mask import Mask, Valid, valid_positions
from truenorm.model.scratch import Hook, ScratchBuffers, is_swappable
from truenorm.model.stream import streams_of
from truenorm.nn.batchnorm import TrackedBatchNorm
from truenorm.rules import Adaptive, Cumulative, Pooled, Rule, Static, Switched
from truenorm.rules.rule import check_momenta
from truenorm.stats.choice import choose
from truenorm.stats.provenance import Provenance
from truenorm.stats.statistics import Statistics

_ACTIVE: "WeakSet[Watch]" = WeakSet()


def default_rules() -> tuple[Rule, ...]:
    """The sweep of momenta as torch keeps them, torch's cumulative average, pooled 0.1 and adaptive."""
    return Static(), Cumulative(), Pooled((0.1,)), Adaptive()


def watch(model: nn.Module, rules: Sequence[Rule] | None = None, *, mask: Mask | None = None) -> "Watch":
    """Follow a training run with every rule at once; the run does not notice.

    Outputs, gradients and weights stay bit-equal, and the model's own buffers come out as if it had not
    been watched (to float32 rounding; the count of batches exactly). A step costs a few per cent more.

    What counts as a batch: every forward of a layer in training mode, as in torch. Not counted are forwards
    that activation checkpointing repeats, and passes that only recalibrate (`measure`, torch's
    `update_bn`). `Adaptive` counts only batches with gradient.

    Args:
        model: any module; it may be compiled later, or be in DistributedDataParallel (each process then
            watches its own batches).
        rules: from `truenorm.rules`; the default is `default_rules()`.
        mask: as for `measure`: keeps padding out of the recorded moments, and changes nothing of the training, whose
            layers go on normalising by all positions. It is given what the model is called with: its argument where
            there is one (not a keyword), a dict of keyword arguments where there are no others, else a tuple of all
            arguments in the order of the call. Each layer is measured by a second reduction, which takes longer.

    Returns:
        a context manager and mapping: name of the rule → `Statistics`.

    Raises:
        InvalidInput: no batch-norm layer, no rule, two readings of one name, watched already, or a program
            (TorchScript, `torch.export`).
        NotMeasurable: the first training forward reached no watched layer (it was compiled before). With a mask, in
            the block: no mask fits a layer's input, or the layer was called outside of the model's forward, as in
            activation checkpointing with `use_reentrant=True`.

    Example:
        >>> from torch import nn, optim, randn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = optim.SGD(net.parameters(), 0.1)
        >>> with watch(net) as watched:
        ...     for _ in range(5):
        ...         loss = net(randn(16, 4)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         _ = optimizer.step()
        >>> "static-0.1" in watched, list(watched["adaptive"])
        (True, ['1'])
    """
    return Watch(model, default_rules() if rules is None else rules, mask)


class Watch(Mapping[str, Statistics]):
    """The result of `watch`: a context around training, and the statistics of every rule by name.

    After the block it can be read, saved (`state_dict`) and entered again to go on.
    """

    def __init__(self, model: nn.Module, rules: Sequence[Rule], mask: Mask | None = None) -> None:
        names = [name for rule in rules for name in rule.names]
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"two rules give {name!r}; leave one of them out")
        if not rules:
            raise InvalidInput("nothing to watch for: no rule was given")
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise InvalidInput("nn.DataParallel runs copies that cannot be watched; use DistributedDataParallel")
        self._model = model
        self._layers = batch_norms(model)
        refuse_programs(model)
        self._modules = list(self._layers.values())
        self._rules = tuple(rules)
        self._where = {name: (number, k) for number, rule in enumerate(rules) for k, name in enumerate(rule.names)}
        self._mask = mask
        self._slower = [name for name, module in self._layers.items() if mask is not None or not is_swappable(module)]
        self._places = streams_of(self._layers, self._rules)
        self._streams = list(dict.fromkeys(stream for stream, _ in self._places))
        self._scratch: list[ScratchBuffers] = []
        self._root: RemovableHandle | None = None
        self._masking: list[RemovableHandle] = []
        self._valid: Valid | None = None
        self._suspensions = 0
        # Per layer, for a layer may hold others: its scratch buffers, and whether the batch in them counts as
        # (training, with gradient).
        self._slots: list[tuple[Tensor, Tensor] | None] = [None] * len(self._modules)
        self._counts_as = [(False, False)] * len(self._modules)
        # Per layer: forwards without gradient whose repetition with gradient is still to come, and what
        # tells training from a recalibrating pass.
        self._unrepeated = [0] * len(self._modules)
        self._in_pass = [False] * len(self._modules)
        self._momentum: list[Any] = []
        self._tracked: list[int] = []

    def __enter__(self) -> "Watch":
        if any(module in other._modules for other in _ACTIVE for module in self._modules):
            raise InvalidInput("the model is being watched already; give all rules to one watch")
        self._momentum = [module.__dict__.get("momentum") for module in self._modules]
        self._tracked = [_num_tracked(module) for module in self._modules]
        try:
            if self._mask is not None:  # before the layers' hooks: the model may itself be a layer
                begin, end = Hook(self._begin_masked), Hook(self._end_masked)
                self._masking += [
                    self._model.register_forward_pre_hook(begin, with_kwargs=True),  # pyright: ignore[reportArgumentType]  # disable() hides the signature
                    self._model.register_forward_hook(end, always_call=True),  # pyright: ignore[reportArgumentType]  # likewise
                ]
            for index, (name, module) in enumerate(self._layers.items()):
                self._scratch.append(ScratchBuffers(self, index, name, module, masked=self._mask is not None))
            hook: Any = Hook(self._after_first_forward)
            self._root = self._model.register_forward_hook(hook)
            _ACTIVE.add(self)
        except BaseException:  # Ctrl-C here would leave hooks behind: nobody calls __exit__
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        _ACTIVE.discard(self)
        for buffers in self._scratch:
            buffers.close()
        self._scratch = []
        if self._root is not None:
            self._root.remove()
            self._root = None
        for handle in self._masking:
            handle.remove()
        self._masking, self._valid = [], None

    def _begin_masked(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Take the mask of the coming forward from what the model is called with."""
        self._valid = None
        if self._suspensions or not any(module.training for module in self._modules):
            return
        if not inputs:
            given: Any = dict(named)
        else:
            given = inputs[0] if len(inputs) == 1 and not named else (*inputs, *named.values())
        with torch.no_grad():
            self._valid = valid_positions(self._mask, given)

    def _end_masked(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._valid = None

    def _after_first_forward(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if self._suspensions or not any(module.training for module in self._modules):
            return
        if self._root is not None:
            self._root.remove()
            self._root = None
        reached = any(stream.seen for stream in self._streams) or any(buffers.reached for buffers in self._scratch)
        if not reached and not any(self._in_pass):
            raise NotMeasurable(
                f"a training forward of {type(model).__name__} reached none of its {len(self._modules)} watched "
                "layers; if the model was compiled and called before, enter the watch before its first call"
            )

    # MomentSink: runs in every training step, so it does little.

    def slot(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Scratch buffers for the coming forward if it is a batch of the training; decides for which rules."""
        if self._suspensions:
            return None
        gradient = torch.is_grad_enabled()
        training = True
        if torch._C._current_graph_task_id() != -1:  # pyright: ignore[reportPrivateUsage]  # no public way to ask
            # Checkpointing repeats a forward inside backward. The reentrant kind ran it first without
            # gradient: for rules that count only batches with gradient, the repetition is the batch.
            training = False
            gradient = gradient and self._unrepeated[index] > 0
            if not gradient:
                return None
            self._unrepeated[index] -= 1
        elif gradient:
            self._unrepeated[index] = 0
            self._in_pass[index] = False
        elif self._is_pass(index):
            return None
        else:
            self._unrepeated[index] += 1
        self._counts_as[index] = training, gradient
        stream, layer = self._places[index]
        slot = self._slots[index] = stream.slot(layer)
        return slot

    def receive(self, index: int, count: int, momentum: float | None) -> None:
        """Record the batch, and update the layer's own buffers as torch would have done."""
        stream, layer = self._places[index]
        module = self._modules[index]
        slot = self._slots[index]
        assert slot is not None
        if isinstance(module, TrackedBatchNorm):
            module.update_running_stats(slot[0], slot[1] * ((count - 1) / count), count)
        elif momentum != 0:
            buffers = module._buffers  # pyright: ignore[reportPrivateUsage]  # attribute access is ten times slower
            # As torch does it, past the version counter: a graph that holds the buffers stays good.
            own = [buffers["running_mean"].data, buffers["running_var"].data]  # pyright: ignore[reportOptionalMemberAccess]  # batch_norms() lists no layer without
            if momentum is None:
                _average_in(own, slot, buffers.get("num_batches_tracked"))
            else:
                torch._foreach_lerp_(own, slot, momentum)  # pyright: ignore  # one call, as torch's optimizers have it
        training, gradient = self._counts_as[index]
        self._tracked[index] += training and momentum != 0
        self._momentum[index] = module.__dict__.get("momentum")
        stream.commit(layer, count, training=training, gradient=gradient)

    def record(self, index: int, count: int, momentum: float | None) -> None:
        """Record the batch of a layer that has updated its own buffers."""
        stream, layer = self._places[index]
        training, gradient = self._counts_as[index]
        self._tracked[index] += training and momentum != 0
        self._momentum[index] = self._modules[index].__dict__.get("momentum")
        stream.commit(layer, count, training=training, gradient=gradient)

    def valid_rows(self, name: str, values: Tensor, dim: int) -> Tensor:
        """By the mask of the forward that runs."""
        if self._valid is None:
            raise NotMeasurable(
                f"layer {name!r} was called outside of the forward of the watched model, where no mask is known; call "
                "the model itself, and checkpoint activations with use_reentrant=False"
            )
        return self._valid.rows(values, dim, name)

    def _is_pass(self, index: int) -> bool:
        """A training-mode forward without gradient: training (checkpointing, validation), or recalibration?

        Recalibration changes the momentum or sets the count of batches back before it runs.
        """
        module = self._modules[index]
        tracked = _num_tracked(module)
        if module.__dict__.get("momentum") != self._momentum[index] or tracked < self._tracked[index]:
            self._in_pass[index] = True
        self._tracked[index] = tracked
        return self._in_pass[index]

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Batches in the block are not training: a recalibration of your own, say.

        Example:
            >>> net = nn.BatchNorm1d(2)
            >>> with watch(net) as watched, watched.suspended():
            ...     _ = net(torch.randn(4, 2))
        """
        self._suspensions += 1
        try:
            yield
        finally:
            self._suspensions -= 1

    def end_epoch(self) -> None:
        """Say that an epoch has ended, for rules that read whole epochs (`rules.Population(epochs=True)`)."""
        for stream in self._streams:
            stream.end_epoch()

    def switch(self, name: str, momenta: Mapping[str, float]) -> None:
        """Let a `rules.Switched` go on under these momenta, layer by layer; layers not named keep theirs.

        Raises:
            UnknownName: no such rule, or no such layer.
            InvalidInput: the rule's momentum cannot be switched.
        """
        number = self._find(name)[0]
        rule = self._rules[number]
        if not isinstance(rule, Switched):
            raise InvalidInput(f"rule {name!r} has fixed momenta; only rules.Switched can be switched")
        for layer, momentum in momenta.items():
            check_momenta((momentum,))
            if layer not in self._layers:
                raise UnknownName("layer", layer, self._layers)
        for stream in self._streams:
            state = stream.state(number)
            gains = state.layers["momentum"][0].clone()
            for layer, position in ((layer, i) for i, layer in enumerate(stream.names) if layer in momenta):
                gains[position] = momenta[layer]
            stream.set_state(number, rule.switched(state, gains))

    def __getitem__(self, name: str) -> Statistics:
        number, k = self._find(name)
        read = [stream.read(number, k) for stream in self._streams]
        moments = {layer: values for layers, _ in read for layer, values in layers.items()}
        momenta = {layer: value for _, layers in read for layer, value in layers.items()}
        if not moments:
            rule = self._rules[number]
            what = (
                "no epoch has ended (call end_epoch)"
                if getattr(rule, "epochs", False)
                else "no training batch was seen"
            )
            raise NotMeasurable(f"{name!r} has no statistics yet: {what}")
        order = [layer for layer in self._layers if layer in moments]
        provenance = Provenance(
            rule=name,
            skipped=tuple(layer for layer in self._layers if layer not in moments),
            measured_beside=tuple(self._slower),
        )
        return Statistics({layer: moments[layer] for layer in order}, momenta=momenta, provenance=provenance)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def best(self, reference: Statistics, *, among: Literal["static", "pooled"] = "static") -> Statistics:
        """Each layer with the momentum of the sweep whose statistics are nearest to the reference (DMBN).

        Args:
            reference: the population's, such as `measure(model, loader)`.
            among: torch's running statistics, or pooled ones.

        Returns:
            statistics whose `momenta` say what each layer took.

        Raises:
            InvalidInput: no rule of that kind is watched, or a layer of the reference is not.
        """
        kinds: dict[str, type[Static | Pooled]] = {"static": Static, "pooled": Pooled}
        if among not in kinds:
            raise UnknownName("sweep", among, kinds)
        candidates = {
            momentum: self[name]
            for rule in self._rules
            if isinstance(rule, kinds[among])
            for momentum, name in zip(rule.momenta, rule.names, strict=True)
        }
        if not candidates:
            raise InvalidInput(f"no {among} momenta are watched; add rules.{among.capitalize()}() to the watch")
        return choose(candidates, reference)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on to the same bits; made of tensors, numbers and strings.

        Example:
            >>> net = nn.BatchNorm1d(2)
            >>> with watch(net) as watched:
            ...     _ = net(torch.randn(4, 2))
            >>> again = watch(net)
            >>> again.load_state_dict(watched.state_dict())
            >>> again["static-0.1"] == watched["static-0.1"]
            True
        """
        return {"streams": [stream.state_dict() for stream in self._streams]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            InvalidInput: it was saved of other layers or under other rules.
        """
        streams = saved.get("streams")
        if not isinstance(streams, list) or len(streams) != len(self._streams):
            raise InvalidInput("this is not the state of a watch of this model on these devices")
        for stream, part in zip(self._streams, streams, strict=True):
            stream.load_state_dict(part)

    def _find(self, name: str) -> tuple[int, int]:
        if name not in self._where:
            raise UnknownName("rule", name, self._where)
        return self._where[name]

    def __repr__(self) -> str:
        return f"Watch({len(self._modules)} layers, {len(self)} rules)"

    # Compared by identity: a watch is one training run.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  # Mapping has none


@contextmanager
def training_suspended(model: nn.Module) -> Generator[None]:
    """Suspend every watch on layers of this model: forwards in the block are not batches of its training."""
    modules = set(model.modules())
    affected = [watch for watch in _ACTIVE if any(module in modules for module in watch._modules)]  # pyright: ignore[reportPrivateUsage]  # of this file
    for watch in affected:
        watch._suspensions += 1  # pyright: ignore[reportPrivateUsage]  # of this file
    try:
        yield
    finally:
        for watch in affected:
            watch._suspensions -= 1  # pyright: ignore[reportPrivateUsage]  # of this file


def _average_in(own: Sequence[Tensor], batch: Sequence[Tensor], num_batches: Tensor | None) -> None:
    """torch's momentum=None: every batch weighs the same; without a count torch does nothing."""
    if num_batches is not None:
        gain = 1 / num_batches  # stays a tensor: reading it would make a GPU wait
        for values, new in zip(own, batch, strict=True):
            values.lerp_(new, gain.to(values))


def _num_tracked(module: nn.Module) -> int:
    count = getattr(module, "num_batches_tracked", None)
    return 0 if count is None else int(count)

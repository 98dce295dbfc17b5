"""What differs between train() and eval() beside batch norm: dropout in any form, noise, augmentation inside."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.layers import comparable
from truenorm.doctor.remedy import ChangeTraining, RepairStatistics
from truenorm.model.evaluate import evaluating, run
from truenorm.model.layers import batch_norms
from truenorm.model.measure import joint_estimates
from truenorm.stats.statistics import Statistics

_EXPLAINS = 0.2
"""Share of the shift from which on it is named."""

_TRACED = 16
"""Samples in the batch with which the modules are found in which it begins."""

Fingerprint = tuple[object, ...]
"""What tells tensors from others: shapes, sums and sums of squares."""

Trace = list[tuple[str, Fingerprint, Fingerprint]]
"""Module, input and output, in the order in which the calls ended."""


def awake(model: nn.Module) -> None:
    """The modes of training for everything but batch norm."""
    model.train()
    for layer in batch_norms(model, tracking=False).values():
        layer.training = False


def find(case: Case) -> Iterable[Finding]:
    """Everything beside batch norm is put into training mode, in a copy: do the moments become those stored?

    No list of classes is needed: two passes of one batch that differ are random, and a module whose output differs
    where its input does not is where it begins.
    """
    names = case.compared
    if not names or case.sample is None:
        return
    random, other, behind = _starts(case)
    if not random and not other:
        return
    woken = _measured(case)
    if woken is None or any(name not in woken for name in names):
        return
    before, after = distance(case.stored, case.joint, names), distance(case.stored, woken, names)
    explained = 1 - after / before if before > 0 else 0.0
    if explained <= _EXPLAINS:
        return
    modules = dict(case.model.named_modules())
    rates = dropouts(case.model)
    random = [name for name in random if name not in rates or name not in behind] or random
    at_end = RepairStatistics(next_time=ChangeTraining(what="repair at the end"))
    if random and all(name in rates for name in random):
        standing = {name: rate for name, rate in rates.items() if name not in behind} or rates
        evidence = {"dropouts": tuple(standing), "rates": tuple(standing.values())}
        last = RepairStatistics(next_time=ChangeTraining(what="dropout last"))
        yield Finding(cause="dropout", evidence=evidence, explained=explained, remedy=last)
        return
    starts = random or other
    yield Finding(
        cause="randomness" if random else "training mode",
        evidence={
            "modules": tuple(starts),
            "classes": tuple(dict.fromkeys(type(modules[name]).__name__ for name in starts)),
        },
        explained=explained,
        remedy=at_end,
    )


def dropouts(model: nn.Module) -> dict[str, float]:
    """torch's dropout layers with their rates."""
    return {name: module.p for name, module in model.named_modules() if isinstance(module, _DropoutNd) and module.p > 0}


def _measured(case: Case) -> Statistics | None:
    """The joint flow with all else in training mode; None where the network cannot be run so."""
    network = case.copy()
    if network is None:
        return None
    assert case.sample is not None
    try:
        statistics, _ = joint_estimates(
            network, case.sample.batches, forward=case.forward, mask=case.mask, frozen=[], prepare=awake
        )
    except Exception:  # a forward that needs targets in train(), say: nothing is known then, and nothing said
        return None
    return comparable(statistics, case.layers)


def _starts(case: Case) -> tuple[list[str], list[str], set[str]]:
    """Modules in which randomness begins; where none does, those in which another difference of train() begins; and
    those that are called behind the last batch norm."""
    network = case.copy()
    assert case.sample is not None
    if network is None:
        return [], [], set()
    part = case.sample if case.sample.joined is None else case.sample.rows(torch.arange(min(_TRACED, len(case.sample))))
    batch = part.batches[0]
    try:
        with evaluating(network):
            asleep = _traced(network, batch, case)
        with evaluating(network, prepare=awake):
            first, second = _traced(network, batch, case), _traced(network, batch, case)
    except Exception:  # the same forward in train(): nothing is known then, and nothing said
        return [], [], set()
    norms, called = set(batch_norms(network, tracking=False)), [name for name, *_ in first]
    last = max((place for place, name in enumerate(called) if name in norms), default=len(called))
    behind = set(called[last + 1 :]) - set(called[:last])
    return _first_differences(first, second), _first_differences(asleep, first), behind


def _traced(network: nn.Module, batch: Any, case: Case) -> Trace:
    trace: Trace = []
    with _tracing(network, trace):
        run(network, batch, case.forward)
    return trace


@contextmanager
def _tracing(network: nn.Module, trace: Trace) -> Generator[None]:
    def note(name: str) -> Any:
        # The fingerprint of the input is taken before the forward, which may work in place.
        inputs: list[Fingerprint] = []

        def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            inputs.append(_fingerprint((given, named)))

        def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            trace.append((name, inputs.pop(), _fingerprint(output)))

        return before, after

    handles: list[Any] = []
    try:
        for name, module in network.named_modules():
            before, after = note(name)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_differences(a: Trace, b: Trace) -> list[str]:
    """The innermost modules whose outputs differ though their inputs are equal."""
    if [name for name, *_ in a] != [name for name, *_ in b]:  # other modules are called, or in another order
        called = [{name for name, *_ in trace} for trace in (a, b)]
        return _callers(called[0] ^ called[1])
    differ = dict.fromkeys(name for (name, x, y), (_, u, v) in zip(a, b, strict=True) if x == u and y != v)
    return [name for name in differ if not any(_is_inside(other, name) for other in differ)]


def _callers(names: set[str]) -> list[str]:
    """The modules that call these in one mode only."""
    return sorted({name.rpartition(".")[0] for name in names} or {""})[:1]


def _is_inside(name: str, outer: str) -> bool:
    return name != outer and (not outer or name.startswith(f"{outer}."))


def _fingerprint(value: Any) -> Fingerprint:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            wide = value.detach().double()
            return (tuple(value.shape), float(wide.sum()), float(wide.square().sum()))
        return (tuple(value.shape),)
    if isinstance(value, dict):
        return tuple(_fingerprint(part) for part in value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of the user's
    if isinstance(value, tuple | list):
        return tuple(_fingerprint(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of the user's
    return ()

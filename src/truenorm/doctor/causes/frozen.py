"""Frozen parameters whose statistics moved on; layers frozen by eval(), which train() undoes."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import get_args

from torch import nn

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.layers import Layer
from truenorm.doctor.rank import BUFFERS, FREE
from truenorm.doctor.remedy import Freeze, FrozenBy, Nothing, RepairStatistics, Unfreeze
from truenorm.doctor.score import AS_IS
from truenorm.model.layers import unwrap
from truenorm.stats.shift import LayerShift


def find(case: Case) -> Iterable[Finding]:
    tracked = {name: layer for name, layer in case.layers.items() if layer.stored is not None and not layer.frozen}
    still = [name for name, layer in tracked.items() if layer.learns is False]
    trains = any(value.requires_grad for value in case.model.parameters())
    moving = [name for name in still if (tracked[name].batches or 0) > 0 and tracked[name].momentum != 0]
    if moving and trains:
        yield Finding(
            cause="frozen parameters",
            rank=FREE,
            layers=tuple(moving),
            remedy=RepairStatistics(next_time=Freeze(layers=_pattern(case, moving))),
        )


def find_wrong(case: Case) -> Iterable[Finding]:
    """Layers that a repair would leave alone, and whose statistics do harm."""
    best = case.best_unfrozen
    if best is None or not case.left:
        return
    if not case.unfrozen[best].beats(case.scores[case.best or AS_IS]):
        return
    own, arriving = case.own(), case.shift()
    if own is None or arriving is None:
        return
    off = [name for name in case.left if name in case.exact and own[name].shift > _beyond_noise(arriving[name])]
    for by in get_args(FrozenBy):
        wrong = [name for name in off if _frozen_by(case.layers[name]) == by]
        if wrong:
            layers = _pattern(case, wrong) if by == "freeze" else tuple(wrong)
            yield Finding(
                cause="frozen statistics",
                evidence={"shift": max(own[name].shift for name in wrong), "by": by, "classes": _classes(case, wrong)},
                rank=BUFFERS,
                level="defect",
                layers=tuple(wrong),
                remedy=Unfreeze(layers=layers, by=by),
            )


_OFF = 0.05
"""σ from which on a frozen layer is named among those that are wrong."""


def _beyond_noise(arriving: LayerShift) -> float:
    """What a frozen layer must be off by to be named: what a finite sample shows is not wrong."""
    return max(_OFF, 2 * (arriving.noise_floor or 0.0))


def find_by_class(case: Case) -> Iterable[Finding]:
    """Layers whose class never trains."""
    fixed = [name for name, layer in case.layers.items() if layer.behaviour.fixed]
    if fixed:
        yield Finding(
            cause="frozen by class",
            evidence={"classes": _classes(case, fixed)},
            level="note",
            layers=tuple(fixed),
            remedy=Nothing(),
        )


def _classes(case: Case, names: list[str]) -> tuple[str, ...]:
    """The names of their classes, with those of the modules where torch has others of that name (quantised ones)."""
    kinds = (type(unwrap(case.model).get_submodule(name)) for name in names)
    return tuple(
        dict.fromkeys(f"{k.__module__}.{k.__name__}" if hasattr(nn, k.__name__) else k.__name__ for k in kinds)
    )


def _frozen_by(layer: Layer) -> FrozenBy:
    if layer.behaviour.fixed:
        return "class"
    return "freeze" if layer.frozen else "eval"


def find_asleep(case: Case) -> Iterable[Finding]:
    """Layers in eval() while the model trains."""
    asleep = [
        name
        for name, layer in case.layers.items()
        if layer.stored is not None and not layer.frozen and not layer.training and unwrap(case.model).training
    ]
    if asleep:
        yield Finding(
            cause="frozen by eval()",
            level="note",
            layers=tuple(asleep),
            remedy=Freeze(layers=_pattern(case, asleep)),
        )


def _pattern(case: Case, names: list[str]) -> str | tuple[str, ...]:
    """A shell pattern that fits these layers and no others; else their names."""
    if len(names) == 1:
        return names[0]
    stem: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        stem.append(parts[0])
    pattern = ".".join([*stem, "*"])
    fits = [name for name in case.layers if fnmatchcase(name, pattern)]
    return pattern if fits == [name for name in case.layers if name in names] else tuple(names)

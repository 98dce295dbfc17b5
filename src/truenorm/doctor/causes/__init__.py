"""Causes of a bad eval(): functions from a case to findings, a file for each kind of evidence."""

from collections.abc import Callable, Iterable

from truenorm.doctor.causes import (
    averaging,
    counting,
    damage,
    dead,
    domain,
    epsilon,
    frozen,
    gamma,
    habits,
    initial,
    lag,
    momentum,
    order,
    ported,
    preprocessing,
    program,
    reuse,
    single,
    switched_off,
    tiny,
    training_mode,
    untouched,
)
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import CAUSES, Finding

Find = Callable[[Case], Iterable[Finding]]

STATIC: tuple[Find, ...] = (
    damage.find,
    switched_off.find,
    counting.find,
    program.find,
    habits.find,
    momentum.find_setting,
    untouched.find_setting,
    dead.find,
    frozen.find_asleep,
    frozen.find_by_class,
)
"""Seen without running anything (and better with it)."""

CERTAIN: tuple[Find, ...] = (untouched.find, frozen.find_wrong, single.find)
"""Need data, and are looked for though nothing may be off on them."""

MEASURED: tuple[Find, ...] = (
    reuse.find,
    initial.find,
    ported.find,
    training_mode.find,
    gamma.find,
    tiny.find,
    epsilon.find,
    order.find,
    preprocessing.find,
)
"""Looked for where something is off, until one explains nearly all: they measure how much of the shift they explain.

Those that fit fewer numbers come first: with enough numbers much can be explained that is not so."""

SIGNS: tuple[Find, ...] = (momentum.find, averaging.find, frozen.find)
"""Looked for where something is off; how much of the shift they explain is not measured."""

LEFT_OVER: tuple[Find, ...] = (domain.find, lag.find)
"""Looked for when no other cause explains the shift, and distinguished by the layer where it begins."""

__all__ = ["CAUSES", "CERTAIN", "LEFT_OVER", "MEASURED", "SIGNS", "STATIC", "Find"]

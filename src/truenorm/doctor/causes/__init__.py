"""Causes of a bad eval(): functions from a case to findings, a file for each kind of evidence."""

from collections.abc import Callable, Iterable

from truenorm.doctor.causes import (
    averaging,
    counting,
    damage,
    dead,
    domain,
    dropout,
    epsilon,
    frozen,
    habits,
    initial,
    lag,
    momentum,
    order,
    preprocessing,
    program,
    reuse,
    switched_off,
    tiny,
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
)
"""Seen without running anything (and better with it)."""

CERTAIN: tuple[Find, ...] = (untouched.find,)
"""Need data, and are defects though nothing may be off on them."""

MEASURED: tuple[Find, ...] = (
    *CERTAIN,
    initial.find,
    momentum.find,
    tiny.find,
    order.find,
    preprocessing.find,
    dropout.find,
    epsilon.find,
    averaging.find,
    frozen.find,
    reuse.find,
)
"""Looked for where something is off; most measure how much of the shift they explain."""

LEFT_OVER: tuple[Find, ...] = (domain.find, lag.find)
"""Looked for when no other cause explains the shift, and distinguished by the layer where it begins."""

__all__ = ["CAUSES", "CERTAIN", "LEFT_OVER", "MEASURED", "STATIC", "Find"]

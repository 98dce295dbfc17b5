"""Causes of a bad eval(): one file each, a function from a case to what it finds."""

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
    reuse,
    switched_off,
    tiny,
)
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding

Cause = Callable[[Case], Iterable[Finding]]

STATIC: tuple[Cause, ...] = (
    damage.find,
    switched_off.find,
    counting.find,
    habits.find,
    dead.find,
    frozen.asleep,
)
"""Seen without running anything (and better with it)."""

MEASURED: tuple[Cause, ...] = (
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
"""Each says how much of the measured shift it explains."""

LEFT_OVER: tuple[Cause, ...] = (domain.find, lag.find)
"""What is left when no other cause explains the shift: told apart by where it begins."""

CAUSES = (
    "not finite",
    "negative variance",
    "half precision",
    "never updated",
    "initial values",
    "momentum 0",
    "momentum",
    "sampling noise",
    "lag",
    "variance convention",
    "sorted batches",
    "preprocessing",
    "domain",
    "dropout",
    "averaged weights",
    "pruned weights",
    "updated twice",
    "called several times",
    "frozen parameters",
    "frozen by eval()",
    "eps",
    "track_running_stats",
    "tiny batches",
    "dead channels",
    "bias before batch norm",
    "weight decay",
    "synchronised alone",
    "program in training mode",
    "last batch of one",
)
"""The names of all causes."""

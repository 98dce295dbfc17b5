"""Batch normalization whose inference statistics are true to the population.

Names are loaded when they are first used, so that importing truenorm does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truenorm import errors, experimental, kernels, nn, rules, stats
    from truenorm.doctor.diagnose import diagnose
    from truenorm.doctor.diagnosis import Diagnosis
    from truenorm.doctor.repair import Repair, repair
    from truenorm.errors import TruenormError
    from truenorm.model.convert import convert
    from truenorm.model.dmbn import DynamicMomentum, dmbn
    from truenorm.model.freeze import freeze, unfreeze
    from truenorm.model.measure import measure
    from truenorm.model.statistics import assign, statistics, using
    from truenorm.model.watch import Watch, watch
    from truenorm.record import Measurement, Record
    from truenorm.stats.moments import Moments
    from truenorm.stats.shift import ShiftReport, estimation_shift
    from truenorm.stats.statistics import Statistics

__version__ = "0.1.0"

__all__ = [
    "Diagnosis",
    "DynamicMomentum",
    "Measurement",
    "Moments",
    "Record",
    "Repair",
    "ShiftReport",
    "Statistics",
    "TruenormError",
    "Watch",
    "assign",
    "convert",
    "diagnose",
    "dmbn",
    "errors",
    "estimation_shift",
    "experimental",
    "freeze",
    "kernels",
    "measure",
    "nn",
    "repair",
    "rules",
    "statistics",
    "stats",
    "unfreeze",
    "using",
    "watch",
]

_HOME = {
    "Diagnosis": "truenorm.doctor.diagnosis",
    "DynamicMomentum": "truenorm.model.dmbn",
    "Measurement": "truenorm.record",
    "Moments": "truenorm.stats.moments",
    "Record": "truenorm.record",
    "Repair": "truenorm.doctor.repair",
    "ShiftReport": "truenorm.stats.shift",
    "Statistics": "truenorm.stats.statistics",
    "TruenormError": "truenorm.errors",
    "Watch": "truenorm.model.watch",
    "assign": "truenorm.model.statistics",
    "convert": "truenorm.model.convert",
    "diagnose": "truenorm.doctor.diagnose",
    "dmbn": "truenorm.model.dmbn",
    "estimation_shift": "truenorm.stats.shift",
    "freeze": "truenorm.model.freeze",
    "measure": "truenorm.model.measure",
    "repair": "truenorm.doctor.repair",
    "statistics": "truenorm.model.statistics",
    "unfreeze": "truenorm.model.freeze",
    "using": "truenorm.model.statistics",
    "watch": "truenorm.model.watch",
}
_MODULES = {
    "errors": "truenorm.errors",
    "experimental": "truenorm.experimental",
    "kernels": "truenorm.kernels",
    "nn": "truenorm.nn",
    "rules": "truenorm.rules",
    "stats": "truenorm.stats",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'truenorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Statistics and what can be computed from them: pure functions on values."""

from truenorm.stats.choice import choose, squared_error
from truenorm.stats.moments import Moments, merge, mixture, moments
from truenorm.stats.provenance import Provenance
from truenorm.stats.shift import LayerShift, ShiftReport, estimation_shift, noise_floor
from truenorm.stats.statistics import Statistics, merge_statistics

__all__ = [
    "LayerShift",
    "Moments",
    "Provenance",
    "ShiftReport",
    "Statistics",
    "choose",
    "estimation_shift",
    "merge",
    "merge_statistics",
    "mixture",
    "moments",
    "noise_floor",
    "squared_error",
]

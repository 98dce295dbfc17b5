"""Ways of having inference statistics from the batches of one training run."""

from truenorm.stats.rules.pooled import Pooled, Population
from truenorm.stats.rules.predictive import Adaptive, Online
from truenorm.stats.rules.rule import Batches, Layout, Reading, Rule, State
from truenorm.stats.rules.static import SWEEP, Cumulative, Static, Switched

__all__ = [
    "SWEEP",
    "Adaptive",
    "Batches",
    "Cumulative",
    "Layout",
    "Online",
    "Pooled",
    "Population",
    "Reading",
    "Rule",
    "State",
    "Static",
    "Switched",
]

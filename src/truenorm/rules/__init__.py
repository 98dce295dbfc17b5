"""Ways of having inference statistics from the batches of one training run."""

from truenorm.rules.pooled import Pooled, Population, Within
from truenorm.rules.predictive import Adaptive, Online
from truenorm.rules.rule import Batches, Layout, Reading, Rule, State
from truenorm.rules.static import SWEEP, Cumulative, Static, Switched

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
    "Within",
]

"""Batch normalization itself: one set of operations, several backends, the fastest that takes the input."""

from truenorm.kernels.activation import Activation, activated
from truenorm.kernels.aten import deliver_moments, pooled_batch_norm
from truenorm.kernels.ops import batch_norm, moments, normalize
from truenorm.kernels.registry import BACKENDS, Backend, prefer, preferred, tracker_for

__all__ = [
    "BACKENDS",
    "Activation",
    "Backend",
    "activated",
    "batch_norm",
    "deliver_moments",
    "moments",
    "normalize",
    "pooled_batch_norm",
    "prefer",
    "preferred",
    "tracker_for",
]

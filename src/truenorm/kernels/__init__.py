"""Batch normalization itself: one set of operations, several backends, the fastest that takes the input."""

from truenorm.kernels.aten import deliver_moments, pooled_batch_norm
from truenorm.kernels.ops import batch_norm, moments, normalize
from truenorm.kernels.registry import BACKENDS, Backend

__all__ = ["BACKENDS", "Backend", "batch_norm", "deliver_moments", "moments", "normalize", "pooled_batch_norm"]

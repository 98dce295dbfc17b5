"""Batch normalization itself: one set of operations, several backends, the fastest that takes the input."""

from truenorm.kernels.aten import pooled_batch_norm
from truenorm.kernels.ops import batch_norm, moments, normalize
from truenorm.kernels.registry import BACKENDS, Backend

__all__ = ["BACKENDS", "Backend", "batch_norm", "moments", "normalize", "pooled_batch_norm"]

"""Batch normalization itself: one set of operations and several backends, of which the preferred one serves."""

from truenorm.kernels.arguments import NOTHING, Activation, Affine, Epilogue, Recursion, Running
from truenorm.kernels.aten import deliver_moments
from truenorm.kernels.epilogue import activated
from truenorm.kernels.ops import batch_norm, batch_norm_pooled, moments, normalize
from truenorm.kernels.registry import BACKENDS, Backend, prefer, preferred
from truenorm.kernels.tracking import track

__all__ = [
    "BACKENDS",
    "NOTHING",
    "Activation",
    "Affine",
    "Backend",
    "Epilogue",
    "Recursion",
    "Running",
    "activated",
    "batch_norm",
    "batch_norm_pooled",
    "deliver_moments",
    "moments",
    "normalize",
    "prefer",
    "preferred",
    "track",
]

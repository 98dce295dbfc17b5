"""Layers."""

from truenorm.nn.batchfree import BatchFreeNorm
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["BatchFreeNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]

"""Layers."""

from truenorm.nn.batchfree import BatchFreeNorm

__all__ = ["BatchFreeNorm"]

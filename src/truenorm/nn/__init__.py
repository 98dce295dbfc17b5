"""Layers."""

from truenorm.nn.act import BatchNormAct1d, BatchNormAct2d, BatchNormAct3d
from truenorm.nn.batchfree import BatchFreeNorm
from truenorm.nn.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = [
    "BatchFreeNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
]

"""What is measured: the shapes of ResNet-50, and the fewest bytes that each pass over them must move.

S is the size of one activation. A mask is one bit per element: it is stored where a residual was added, since
the sign of the sum cannot be had again from x alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

BATCH = 256
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}

FUSIONS = {"bn": ("identity", False), "relu": ("relu", False), "add": ("relu", True)}
"""Name → (activation, is a residual added before it)."""

PASSES = ("forward", "backward", "forward+backward", "inference", "frozen")
"""frozen: forward and backward by given statistics, as batch norm in evaluation mode is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An activation of ResNet-50, and how many of its batch norms have it, by what follows them."""

    channels: int
    side: int
    bn: int = 0
    relu: int = 0
    add: int = 0

    @property
    def name(self) -> str:
        return f"{self.channels} @{self.side}"

    def layers(self, fusion: str) -> int:
        return {"bn": self.bn, "relu": self.relu, "add": self.add}[fusion]

    def size(self, batch: int = BATCH) -> tuple[int, int, int, int]:
        return batch, self.channels, self.side, self.side


RESNET50 = (
    Shape(channels=64, side=112, relu=1),
    Shape(channels=64, side=56, relu=6),
    Shape(channels=128, side=56, relu=1),
    Shape(channels=256, side=56, bn=1, add=3),
    Shape(channels=128, side=28, relu=7),
    Shape(channels=256, side=28, relu=1),
    Shape(channels=512, side=28, bn=1, add=4),
    Shape(channels=256, side=14, relu=11),
    Shape(channels=512, side=14, relu=1),
    Shape(channels=1024, side=14, bn=1, add=6),
    Shape(channels=512, side=7, relu=5),
    Shape(channels=2048, side=7, bn=1, add=3),
)
"""All 53 batch norms of ResNet-50 v1.5 at 224 × 224."""

FOUR = tuple(shape for shape in RESNET50 if shape.name in {"64 @112", "256 @56", "256 @14", "512 @7"})
"""Those measured where there is no time for all: largest, most bytes, most layers, smallest."""

BY_NAME = {shape.name: shape for shape in RESNET50}


def layers() -> Iterator[tuple[Shape, str, int]]:
    """The combinations of shape and fusion that the network has, and how many layers of each."""
    for shape in RESNET50:
        for fusion in FUSIONS:
            if shape.layers(fusion):
                yield shape, fusion, shape.layers(fusion)


def floor_bytes(size: tuple[int, ...], dtype: str, fusion: str, passed: str) -> int:
    """The fewest bytes that a pass must read and write, each sweep counted.

    Training sweeps twice over its input both ways: every value depends on sums over all of them.

    Args:
        size: of the activation.
        dtype: a key of `ITEMSIZE`.
        fusion: a key of `FUSIONS`.
        passed: one of `PASSES`.

    Example:
        >>> floor_bytes((1, 1, 8), "bf16", "relu", "forward"), floor_bytes((1, 1, 8), "bf16", "add", "forward")
        (48, 65)
    """
    activation = prod(size) * ITEMSIZE[dtype]
    mask = -(-prod(size) // 8)
    sweeps, masks = {
        # read x; read x, write y. With a residual: and read it, write the mask.
        "forward": (4, 1) if fusion == "add" else (3, 0),
        # read x, dy; read x, dy, write dx. With a residual: read the mask, write its gradient and read that for dy.
        "backward": (6, 1) if fusion == "add" else (5, 0),
        "forward+backward": (10, 2) if fusion == "add" else (8, 0),
        # read x, write y. With a residual: read it.
        "inference": (3, 0) if fusion == "add" else (2, 0),
        # as inference, then read x, dy, write dx. With a residual: write and read the mask, write its gradient.
        "frozen": (7, 2) if fusion == "add" else (5, 0),
    }[passed]
    return sweeps * activation + masks * mask


KERNELS = ("bwd_finalize", "bwd_reduce", "bwd_apply", "finalize", "stats", "apply")
"""Ours, by what a profiler calls them; longer names first, since `apply` is part of `bwd_apply`."""


def kernel_floor_bytes(size: tuple[int, ...], dtype: str, fusion: str, kernel: str) -> int:
    """Of `floor_bytes`, what one kernel of training moves; those over the channels alone move nothing to speak of."""
    activation = prod(size) * ITEMSIZE[dtype]
    mask = -(-prod(size) // 8)
    added = fusion == "add"
    sweeps, masks = {
        "stats": (1, 0),
        "apply": (3, 1) if added else (2, 0),
        "bwd_reduce": (3, 1) if added else (2, 0),
        "bwd_apply": (3, 0),
    }.get(kernel, (0, 0))
    return sweeps * activation + masks * mask


def network_floor_bytes(dtype: str, passed: str, batch: int = BATCH) -> int:
    """`floor_bytes` of all 53 layers."""
    return sum(count * floor_bytes(shape.size(batch), dtype, fusion, passed) for shape, fusion, count in layers())

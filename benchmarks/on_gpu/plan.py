"""Which cases there are, the most telling first: what time is left for is taken from the front."""

from collections.abc import Iterator

from on_gpu import correctness
from on_gpu.peers import Case
from on_gpu.shapes import BATCH, FOUR, FUSIONS, RESNET50, Shape, layers
from truenorm.kernels import Activation

IN_NETWORK = [(shape, fusion) for shape, fusion, _ in layers()]


def timed_first(batch: int = BATCH) -> list[Case]:
    """What decides: every shape with what follows it in the network, bf16 channels last, both passes."""
    return [
        _case(shape, fusion, passed, batch=batch)
        for passed in ("forward+backward", "forward")
        for shape, fusion in IN_NETWORK
    ]


def timed_rest(batch: int = BATCH) -> list[Case]:
    """What completes the picture."""
    four = [(shape, fusion) for shape, fusion in IN_NETWORK if shape in FOUR]
    found = [
        _case(shape, fusion, passed, batch=batch)
        for passed in ("inference", "frozen")
        for shape in FOUR
        for fusion in FUSIONS
    ]
    found += [
        _case(shape, fusion, passed, layout="NCHW", batch=batch)
        for passed in ("forward+backward", "forward")
        for shape, fusion in IN_NETWORK
    ]
    found += [
        _case(shape, fusion, passed, dtype=dtype, batch=batch)
        for dtype in ("fp16", "fp32")
        for passed in ("forward+backward", "forward")
        for shape, fusion in four
    ]
    found += [_case(shape, fusion, "forward", temperature="warm", batch=batch) for shape, fusion in IN_NETWORK]
    found += [
        _case(shape, fusion, passed, batch=batch)
        for passed in ("forward+backward", "forward")
        for shape in RESNET50
        for fusion in FUSIONS
        if (shape, fusion) not in IN_NETWORK
    ]
    return found


def _case(
    shape: Shape,
    fusion: str,
    passed: str,
    *,
    dtype: str = "bf16",
    layout: str = "NHWC",
    temperature: str = "cold",
    batch: int,
) -> Case:
    return Case(
        dtype=dtype,
        layout=layout,
        shape=shape.name,
        size=shape.size(batch),
        fusion=fusion,
        passed=passed,
        temperature=temperature,
    )


def at_timed_shape(case: Case) -> correctness.Case:
    """The check that goes with a timed case, at its shape, on the first, a middle and the last channel."""
    activation, residual = FUSIONS[case.fusion]
    C = case.size[1]
    return correctness.Case(
        dtype=case.dtype,
        layout=case.layout,
        size=case.size,
        activation=activation,
        residual=residual,
        given=case.passed in ("inference", "frozen"),
        channels=(0, C // 2 + 1, C - 1),
    )


_IMAGES = (
    (8, 24, 7, 7),
    (36, 40, 14, 14),
    (48, 100, 7, 7),
    (8, 128, 28, 28),
    (9, 19, 7, 7),
    (16, 64, 56, 56),
    (33, 1, 7, 7),
    (5, 3, 14, 14),
    (34, 130, 5, 5),
    (2, 2048, 7, 7),
    (1, 64, 14, 14),
    (2, 64, 1, 1),
)
"""Channels, planes and numbers of rows that no tile divides, and some that all do."""

_OTHERS = (
    ("NC", (37, 24)),
    ("NC", (512, 100)),
    ("NC", (1024, 2048)),
    ("NC", (2, 40)),
    ("NCL", (6, 24, 50)),
    ("NCL", (4, 40, 49)),
    ("NCL", (9, 130, 33)),
    ("NCHW", (2, 24, 3, 7, 7)),
    ("NHWC", (2, 24, 3, 7, 7)),
)
_AFTER: tuple[tuple[Activation, bool], ...] = (("relu", True), ("relu", False), ("identity", False))
_SMOOTH: tuple[Activation, ...] = ("silu", "gelu", "hardswish", "leaky_relu")


def compared() -> list[correctness.Case]:
    """Cases for `correctness.check`: each size, type, layout and fusion, not each with each."""
    return list(dict.fromkeys(_compared()))


def compared_too() -> list[correctness.Case]:
    """Each image size, type, layout and fusion with each."""
    return [
        case
        for size in _IMAGES
        for layout in ("NHWC", "NCHW")
        for dtype in ("bf16", "fp32", "fp16")
        for activation, residual in _AFTER
        if (case := _check(dtype, layout, size, activation, residual)) not in compared()
    ]


def _compared() -> Iterator[correctness.Case]:
    for size in ((8, 64, 14, 14), (8, 128, 28, 28), (8, 24, 7, 7)):  # far from zero, where digits are lost
        for layout in ("NHWC", "NCHW"):
            for offset in (1e3, 1e4):
                yield _check("fp32", layout, size, "relu", offset=offset)
    for offset in (1e3, 1e4):
        yield _check("fp32", "NHWC", (8, 24, 7, 7), "relu", offset=offset, given=True)
    for dtype in ("bf16", "fp16"):
        yield _check(dtype, "NHWC", (8, 64, 14, 14), "relu", offset=1e2)
    for turn, size in enumerate(_IMAGES):
        for layout in ("NHWC", "NCHW"):
            for dtype, some in (("bf16", 2), ("fp32", 2), ("fp16", 1)):
                for i in range(some):
                    yield _check(dtype, layout, size, *_AFTER[(turn + i) % len(_AFTER)])
    for turn, (layout, size) in enumerate(_OTHERS):
        for dtype in ("bf16", "fp32"):
            yield _check(dtype, layout, size, *_AFTER[turn % len(_AFTER)])
    for size in ((8, 24, 7, 7), (8, 128, 28, 28)):
        for layout in ("NHWC", "NCHW"):
            for dtype in ("bf16", "fp32"):
                for activation, residual in _AFTER:
                    yield _check(dtype, layout, size, activation, residual, given=True)
    for activation in _SMOOTH:
        for layout, dtype in (("NHWC", "bf16"), ("NCHW", "fp32")):
            for residual in (False, True):
                yield _check(dtype, layout, (8, 24, 14, 14), activation, residual)


def _check(
    dtype: str,
    layout: str,
    size: tuple[int, ...],
    activation: Activation,
    residual: bool = False,
    *,
    offset: float = 0.0,
    given: bool = False,
) -> correctness.Case:
    return correctness.Case(
        dtype=dtype,
        layout=layout,
        size=size,
        activation=activation,
        residual=residual,
        offset=offset,
        given=given,
    )


def beyond_32_bits() -> list[correctness.Case]:
    """More than 2³¹ elements: 4.3 GB a tensor."""
    return [
        correctness.Case(
            dtype="bf16",
            layout=layout,
            size=(2688, 256, 56, 56),
            activation="relu",
            residual=True,
            channels=(0, 131, 255),
        )
        for layout in ("NHWC", "NCHW")
    ]

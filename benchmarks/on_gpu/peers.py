"""The implementations that are timed against each other, and the buffers they run on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from on_gpu.shapes import FUSIONS, ITEMSIZE, floor_bytes
from on_gpu.timing import COLD_BYTES, Call
from truenorm.kernels import Affine, Backend, Epilogue, Running

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
EPS, MOMENTUM = 1e-5, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the tables: what is normalised, what follows, which pass."""

    dtype: str
    layout: str
    shape: str
    size: tuple[int, ...]
    fusion: str
    passed: str
    temperature: str = "cold"

    @property
    def key(self) -> str:
        return " ".join((self.dtype, self.layout, self.shape, self.fusion, self.passed, self.temperature))

    @property
    def floor(self) -> int:
        return floor_bytes(self.size, self.dtype, self.fusion, self.passed)


class Parameters(NamedTuple):
    """What a layer holds, in float32; a tuple, since torch.compile looks into those."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    count: Tensor

    @classmethod
    def of(cls, channels: int, device: str) -> "Parameters":
        weight = (torch.rand(channels, device=device) + 0.5).requires_grad_()
        bias = torch.randn(channels, device=device).requires_grad_()
        mean, var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        return cls(weight, bias, mean, var, torch.zeros((), dtype=torch.int64, device=device))


Layer = Callable[[Tensor, Tensor | None, Parameters], Tensor]


def memory_format(size: tuple[int, ...], layout: str) -> torch.memory_format:
    """Channels last for NHWC, else contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats[len(size)] if layout == "NHWC" else torch.contiguous_format


def empty(size: tuple[int, ...], dtype: str, layout: str, device: str) -> Tensor:
    """A tensor laid out so, not filled."""
    return torch.empty(size, dtype=DTYPES[dtype], device=device, memory_format=memory_format(size, layout))


def ours(backend: Backend, fusion: str, training: bool) -> Layer:
    """The kernels as the layers call them: running statistics are kept in the same launches."""
    activation, _ = FUSIONS[fusion]

    def trained(x: Tensor, z: Tensor | None, p: Parameters) -> Tensor:
        running = Running(p.mean, p.var, p.count, MOMENTUM, "pooled")
        return backend.batch_norm(x, Affine(p.weight, p.bias, EPS), Epilogue(z, activation), running)[0]

    def given(x: Tensor, z: Tensor | None, p: Parameters) -> Tensor:
        return backend.normalize(x, p.mean, p.var, Affine(p.weight, p.bias, EPS), Epilogue(z, activation))

    return trained if training else given


def eager(fusion: str, training: bool, *, cudnn: bool = True) -> Layer:
    """torch.nn.BatchNorm2d, and what follows in place, as torchvision's ResNet has it."""
    activation, _ = FUSIONS[fusion]

    def layer(x: Tensor, z: Tensor | None, p: Parameters) -> Tensor:
        if training:
            p.count.add_(1)
        y = F.batch_norm(x, p.mean, p.var, p.weight, p.bias, training, MOMENTUM, EPS)
        if z is not None:
            y += z
        return F.relu_(y) if activation == "relu" else y

    def without_cudnn(x: Tensor, z: Tensor | None, p: Parameters) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return layer(x, z, p)

    return layer if cudnn else without_cudnn


@cache
def compiled(fusion: str, training: bool) -> Layer:
    """`eager` under torch.compile, one graph per shape."""
    allow_recompiles()
    return torch.compile(eager(fusion, training), dynamic=False, fullgraph=True)


def allow_recompiles() -> None:
    """Past eight shapes of one function torch.compile would go back to eager without an error."""
    from torch._dynamo import config

    for name, value in (
        ("recompile_limit", 512),
        ("cache_size_limit", 512),
        ("accumulated_recompile_limit", 4096),
        ("fail_on_recompile_limit_hit", True),
    ):
        if hasattr(config, name):
            setattr(config, name, value)


def layers(case: Case, backend: Backend | None) -> dict[str, Layer]:
    """The implementations of a case by name; ours is absent without a backend."""
    training = case.passed not in ("inference", "frozen")
    found: dict[str, Layer] = {}
    if backend is not None:
        found["ours"] = ours(backend, case.fusion, training)
    found["eager"] = eager(case.fusion, training)
    if case.dtype != "bf16":  # which never goes to cuDNN
        found["eager, no cuDNN"] = eager(case.fusion, training, cudnn=False)
    found["compile"] = compiled(case.fusion, training)
    return found


class Buffers:
    """Sets of inputs in rotation, so that no pass finds in the cache what the one before left there."""

    def __init__(self, case: Case, device: str, *, sets: int | None = None) -> None:
        self.case = case
        self.parameters = Parameters.of(case.size[1], device)
        one = _bytes(case.size, case.dtype)
        self.sets = sets or max(3, -(-COLD_BYTES // one))
        with_gradients = case.passed != "inference"
        residual = FUSIONS[case.fusion][1]
        self.x = [self._filled(device, 0.5).requires_grad_(with_gradients) for _ in range(self.sets)]
        self.z = [self._filled(device).requires_grad_(with_gradients) if residual else None for _ in range(self.sets)]
        backward = case.passed in ("forward+backward", "frozen")
        self.dy = [self._filled(device) for _ in range(self.sets)] if backward else []

    def call(self, layer: Layer) -> Call:
        """The pass of the case by one implementation."""
        if self.case.passed == "inference":
            return torch.no_grad()(partial(self._forward, layer))
        return partial(self._both if self.dy else self._forward, layer)

    def after_producer(self, layer: Layer | None) -> Call:
        """The same behind something that has just written x, as a convolution does; None: only that."""
        source = self.x[0].detach().clone()
        call = self.call(layer) if layer is not None else None

        def run(i: int) -> object:
            self.x[i].detach().copy_(source)
            return call(i) if call is not None else None

        return run

    def _forward(self, layer: Layer, i: int) -> object:
        return layer(self.x[i], self.z[i], self.parameters).detach()

    def _both(self, layer: Layer, i: int) -> object:
        x, z, p = self.x[i], self.z[i], self.parameters
        y = layer(x, z, p)
        leaves = [x, p.weight, p.bias] + ([z] if z is not None else [])
        return y.detach(), torch.autograd.grad(y, leaves, self.dy[i])

    def _filled(self, device: str, mean: float = 0.0) -> Tensor:
        return empty(self.case.size, self.case.dtype, self.case.layout, device).normal_().add_(mean)


def copy(num_bytes: int, device: str, *, cold: bool = True) -> Call:
    """Reads and writes that many bytes in all, half of them each."""
    sets = max(1, -(-2 * COLD_BYTES // num_bytes)) if cold else 1
    pairs = [
        [torch.randint(0, 255, (num_bytes // 2,), dtype=torch.uint8, device=device) for _ in range(2)]
        for _ in range(sets)
    ]

    def run(i: int) -> None:
        source, target = pairs[i % sets]
        target.copy_(source)

    return run


def read(num_bytes: int, device: str, *, cold: bool = True) -> Call:
    """Reads that many bytes and sums them up."""
    sets = max(1, -(-2 * COLD_BYTES // num_bytes)) if cold else 1
    sources = [torch.randn(num_bytes // 4, device=device) for _ in range(sets)]
    return lambda i: sources[i % sets].sum()


def _bytes(size: tuple[int, ...], dtype: str) -> int:
    total = ITEMSIZE[dtype]
    for length in size:
        total *= length
    return total

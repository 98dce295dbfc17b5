"""Which kernels run, and how long each takes, as torch's profiler sees them."""

import statistics
from collections.abc import Callable, Mapping

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from on_gpu.shapes import KERNELS


def kernels_of(run: Callable[[], object]) -> list[tuple[str, float]]:
    """Name and microseconds of everything that ran on the device, in order."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        run()
        torch.cuda.synchronize()
    return [
        (event.name(), event.duration_ns() / 1000)
        for event in seen.profiler.kineto_results.events()
        if event.device_type() == DeviceType.CUDA
    ]


def ours(name: str) -> str | None:
    """The kernel of ours that a name belongs to.

    Example:
        >>> ours("bwd_apply"), ours("flat_stats"), ours("elementwise_kernel")
        ('bwd_apply', 'stats', None)
    """
    if "(" in name or "<" in name:  # C++: torch's
        return None
    return next((kernel for kernel in KERNELS if kernel in name), None)


def split(events: list[tuple[str, float]]) -> dict[str, tuple[float, int]]:
    """By kernel of ours: median microseconds, and how often it ran.

    Example:
        >>> split([("stats", 2.0), ("memset", 9.0), ("stats", 4.0)])
        {'stats': (3.0, 2)}
    """
    found: dict[str, list[float]] = {}
    for name, taken in events:
        kernel = ours(name)
        if kernel is not None:
            found.setdefault(kernel, []).append(taken)
    return {kernel: (statistics.median(values), len(values)) for kernel, values in found.items()}


PARTS: Mapping[str, tuple[str, ...]] = {
    "batch norm": ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "BatchNorm"),
    "relu": ("relu", "clamp", "threshold"),
    "add": ("CUDAFunctor_add", "AddFunctor", "add_kernel"),
    "convolution": ("conv", "gemm", "cudnn", "xmma", "cutlass", "wgrad", "dgrad", "nvjet"),
    "compiled": ("triton_",),
}


def part(name: str) -> str:
    """What a kernel of a training step is for, by its name.

    Example:
        >>> part("bwd_reduce"), part("void at::native::batch_norm_backward_reduce_kernel<...>")
        ('ours', 'batch norm')
    """
    if name.startswith("triton_"):
        return "compiled"
    if ours(name) is not None and not any(word in name for word in PARTS["convolution"]):
        return "ours"
    return next((kind for kind, words in PARTS.items() if any(word in name for word in words)), "other")

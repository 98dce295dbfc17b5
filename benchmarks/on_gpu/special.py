"""What a comparison of numbers does not show: order of events, memory that was used before, graphs, odd gradients."""

from typing import Any

import torch
from torch import Tensor

from on_gpu.correctness import Case, Check, Inputs, exact, run
from on_gpu.peers import EPS, empty
from on_gpu.record import Row, first_line
from truenorm.kernels import BACKENDS, NOTHING, Affine, Backend, Epilogue, Recursion, Running


class NotHere(Exception):
    """The check needs a GPU."""


def special(name: str, backend: Backend, device: str) -> Row:
    """One row of a check by its name."""
    row: Row = {"kind": "correctness", "check": name, "case": name}
    try:
        wrong = CHECKS[name](backend, device)
    except NotHere as error:
        return row | {"ok": None, "error": str(error)}
    except Exception as error:  # a failure is a row, not the end of the run
        wrong = first_line(error)
    return row | {"ok": wrong is None, "error": wrong}


def nan_is_kept(backend: Backend, device: str) -> str | None:
    """ReLU passes a NaN on, as torch's does; elsewhere nothing becomes one."""
    for layout in ("NCHW", "NHWC"):
        x = empty((4, 24, 7, 7), "bf16", layout, device).normal_()
        x[1, 5, 2, 3] = float("nan")
        zeros, ones = torch.zeros(24, device=device), torch.ones(24, device=device)
        y = backend.batch_norm(x, Affine(ones, zeros, EPS), Epilogue(activation="relu"))[0]
        lost = not y[:, 5].isnan().all()
        spread = y.isnan().sum() != y[:, 5].numel()
        if lost or spread:
            return f"{layout}, batch: {int(y.isnan().sum())} NaN, not the {y[:, 5].numel()} of the channel"
        y = backend.normalize(x, zeros, ones, Affine(ones, zeros, EPS), Epilogue(activation="relu"))
        if y.isnan().nonzero().tolist() != [[1, 5, 2, 3]]:
            return f"{layout}, given: {int(y.isnan().sum())} NaN, not the one of x"
    return None


def one_value_is_refused(backend: Backend, device: str) -> str | None:
    """One value per channel has no variance: an error in training, as torch's; no matter by given statistics."""
    ones, zeros = torch.ones(24, device=device), torch.zeros(24, device=device)
    x = torch.randn(1, 24, device=device)
    try:
        backend.batch_norm(x, Affine(ones, zeros, EPS))
    except ValueError:
        y = backend.normalize(x, zeros, ones, Affine(ones, zeros, 0.0))
        return None if torch.allclose(y, x, atol=1e-5) else "one row by given statistics is wrong"
    return "no ValueError"


def same_again(backend: Backend, device: str) -> str | None:
    """Two runs agree to the bit."""
    for case in _VARIED:
        inputs = Inputs(case, device)
        first, second = run(case, backend, inputs), run(case, backend, inputs)
        if found := _unequal(first, second):
            return f"{case.key}: {found} differ between two runs"
    return None


def same_beside_others(backend: Backend, device: str) -> str | None:
    """The same beside a stream that keeps the device busy: the order in which blocks finish must not matter."""
    if device != "cuda":
        raise NotHere("needs streams")
    busy = torch.cuda.Stream()
    a = torch.randn(2048, 2048, device=device)
    for case in _VARIED:
        inputs = Inputs(case, device)
        alone = run(case, backend, inputs)
        torch.cuda.synchronize()
        for _ in range(5):
            with torch.cuda.stream(busy):
                for _ in range(10):
                    a @ a
            beside = run(case, backend, inputs)
            torch.cuda.synchronize()
            if found := _unequal(alone, beside):
                return f"{case.key}: {found} differ beside a stream of matrix products"
    return None


def old_memory_does_not_show(backend: Backend, device: str) -> str | None:
    """The allocator hands out memory full of NaN: results are the same."""
    for case in _VARIED:
        inputs = Inputs(case, device)
        before = run(case, backend, inputs)
        sizes = [2**power for power in range(2, 26, 2) for _ in range(4)]
        poison = [torch.full((size // 4,), float("nan"), device=device) for size in sizes]
        del poison
        if found := _unequal(before, run(case, backend, inputs)):
            return f"{case.key}: {found} differ once memory was full of NaN"
    return None


def expanded_gradient(backend: Backend, device: str) -> str | None:
    """mean().backward() hands over one number with strides of 0."""
    return _by_gradient(backend, device, lambda y: torch.ones((), dtype=y.dtype, device=device).expand(y.shape))


def gradient_in_other_layout(backend: Backend, device: str) -> str | None:
    """x is channels last, the gradient contiguous."""
    return _by_gradient(backend, device, lambda y: torch.randn(y.shape, device=device).to(y.dtype))


def running_statistics(backend: Backend, device: str) -> str | None:
    """The buffers follow either recursion over three batches, by a number and by a tensor."""
    for tracking in ("pooled", "torch"):
        for momentum in (0.1, None, torch.tensor(0.4, device=device)):
            state = _State(64, device)
            batches = [empty((8, 64, 14, 14), "bf16", "NHWC", device).normal_().add_(i) for i in range(3)]
            for x in batches:
                state.step(backend, x, momentum, tracking)
            number = None if momentum is None else float(momentum)
            if wrong := state.wrong(batches, [number] * 3, tracking):
                return f"{tracking}, momentum {momentum}: {wrong}"
    return None


def captured(backend: Backend, device: str) -> str | None:
    """A CUDA graph of forward and backward: new data and a new momentum count at the next replay."""
    if device != "cuda":
        raise NotHere("needs CUDA graphs")
    case = Case(dtype="bf16", layout="NHWC", size=(8, 64, 14, 14), activation="relu", residual=True)
    inputs = Inputs(case, device)
    exact(case, inputs)
    state = _State(64, device)
    momentum = torch.tensor(0.1, device=device)
    leaves = [value.detach().requires_grad_() for value in (inputs.x, inputs.residual)]

    def step() -> tuple[Tensor, ...]:
        y = state.step(backend, leaves[0], momentum, "pooled", Epilogue(leaves[1], "relu"))
        return y.detach(), *torch.autograd.grad(y, leaves, inputs.dy)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    state.reset()
    batches = []
    for value in (0.1, 0.5, 0.9):
        with torch.no_grad():
            leaves[0].normal_().add_(value)
        momentum.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        batches.append(leaves[0].detach().clone())
        replayed = [result.clone() for result in results]
        other = _State(64, device)
        y = other.step(backend, leaves[0], 0.1, "pooled", Epilogue(leaves[1], "relu"))
        outside = [y.detach(), *torch.autograd.grad(y, leaves, inputs.dy)]
        if any(not torch.equal(a, b) for a, b in zip(replayed, outside, strict=True)):
            return f"replay with momentum {value} differs from a call outside the graph"
    return state.wrong(batches, [0.1, 0.5, 0.9], "pooled")


CHECKS: dict[str, Check] = {
    "a NaN is kept": nan_is_kept,
    "one value is refused": one_value_is_refused,
    "the same again": same_again,
    "the same beside other work": same_beside_others,
    "old memory does not show": old_memory_does_not_show,
    "an expanded gradient": expanded_gradient,
    "a gradient in another layout": gradient_in_other_layout,
    "running statistics": running_statistics,
    "CUDA graph": captured,
}

_VARIED = tuple(
    Case(dtype=dtype, layout=layout, size=size, activation="relu", residual=residual)
    for dtype, layout, size, residual in (
        ("bf16", "NHWC", (64, 256, 14, 14), True),
        ("bf16", "NHWC", (16, 64, 56, 56), False),
        ("bf16", "NCHW", (16, 64, 28, 28), True),
        ("fp32", "NCHW", (16, 100, 7, 7), False),
    )
)


class _State:
    """Running statistics as a layer keeps them, and what float64 makes of the same batches."""

    def __init__(self, channels: int, device: str) -> None:
        self.mean, self.var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.weight, self.bias = torch.ones(channels, device=device), torch.zeros(channels, device=device)

    def reset(self) -> None:
        self.mean.zero_()
        self.var.fill_(1)
        self.count.zero_()

    def step(
        self, backend: Backend, x: Tensor, momentum: Any, tracking: Recursion, epilogue: Epilogue = NOTHING
    ) -> Tensor:
        running = Running(self.mean, self.var, self.count, momentum, tracking)
        return backend.batch_norm(x, Affine(self.weight, self.bias, EPS), epilogue, running)[0]

    def wrong(self, batches: list[Tensor], momenta: list[float | None], tracking: str) -> str | None:
        M, V = torch.zeros_like(self.mean).double(), torch.ones_like(self.var).double()
        for t, (x, momentum) in enumerate(zip(batches, momenta, strict=True), start=1):
            mean, var = BACKENDS["reference"].moments(x.double())
            n = x.numel() // x.shape[1]
            if tracking == "torch":
                gain = 1 / t if momentum is None else momentum
                V += gain * (var * (n / (n - 1)) - V)
            else:
                gain = max(momentum or 0.0, 1 / t)
                V += gain * (var - V) + gain * (1 - gain) * (mean - M).square()
            M += gain * (mean - M)
        if int(self.count) != len(batches):
            return f"counted {int(self.count)} of {len(batches)} batches"
        off = {"mean": (self.mean - M).abs().max().item(), "var": (self.var - V).abs().max().item()}
        bad = {name: value for name, value in off.items() if not value < 1e-5}
        return f"off by {bad}" if bad else None


def _by_gradient(backend: Backend, device: str, gradient: Any) -> str | None:
    for layout in ("NHWC", "NCHW"):
        for residual in (False, True):
            case = Case(dtype="fp32", layout=layout, size=(8, 24, 14, 14), activation="silu", residual=residual)
            inputs = Inputs(case, device)
            inputs.dy = gradient(inputs.x)
            true, scales = exact(case, inputs)
            found = run(case, backend, inputs)
            for name, value in true.items():
                off = (found[name].double() - value).norm().item() / scales[name]
                if not off < 1e-5:
                    return f"{case.key}: {name} off by {off:.1e}"
    return None


def _unequal(first: dict[str, Tensor], second: dict[str, Tensor]) -> str:
    return ", ".join(name for name in first if not torch.equal(first[name], second[name]))

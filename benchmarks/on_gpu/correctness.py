"""Every quantity of the kernels against float64 on the same device, beside what torch's own kernels miss it by."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from on_gpu.peers import EPS, empty, memory_format
from on_gpu.record import Row, first_line
from truenorm.kernels import BACKENDS, Activation, Affine, Backend, Epilogue

ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
_TYPE_OF_X = ("y", "dx", "dresidual")

FAR = 1e3
"""|mean|/std from which on ours must be a hundred times better than torch, or as good as the type can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An input, what is done to it, and whether by its own statistics or by given ones."""

    dtype: str
    layout: str
    size: tuple[int, ...]
    activation: Activation = "identity"
    residual: bool = False
    offset: float = 0.0
    given: bool = False
    """Statistics are given, as in evaluation mode."""
    channels: tuple[int, ...] | None = field(default=None)
    """Those that are compared, where float64 copies of everything would be too large; torch's errors are then not
    taken. None: all."""

    @property
    def key(self) -> str:
        after = f"{'add+' if self.residual else ''}{self.activation}"
        return " ".join(
            (self.dtype, self.layout, "x".join(map(str, self.size)), after, "given" if self.given else "batch")
            + ((f"mean/std {self.offset:g}",) if self.offset else ())
            + (("some channels",) if self.channels else ())
        )


Quantities = dict[str, Tensor]


def check(case: Case, backend: Backend, device: str) -> Row:
    """One row: relative errors of ours and of torch's kernels per quantity, what is allowed, and if all is well."""
    about: Row = {"kind": "correctness", "check": "values", "case": case.key, "dtype": case.dtype}
    about |= {"layout": case.layout, "activation": case.activation, "residual": case.residual}
    about |= {"offset": case.offset, "pass": "frozen" if case.given else "training"}
    try:
        inputs = Inputs(case, device)
        refusal = backend.refusal(inputs.x)
        if refusal is not None:
            return about | {"ok": None, "error": f"refused: {refusal}"}
        true, scales = exact(case, inputs)
        theirs: dict[str, dict[str, float]] = {}
        if case.channels is None:
            for name, cudnn in (("native", False), ("cudnn", True)):
                with torch.backends.cudnn.flags(enabled=cudnn):
                    theirs[name] = errors(run(case, BACKENDS["aten"], inputs), true, scales)[0]
        norms, worst = errors(run(case, backend, inputs), true, scales)
    except Exception as error:  # a failure is a row, not the end of the run
        return about | {"ok": False, "error": first_line(error)}
    found: dict[str, Any] = {}
    for name in true:
        others = {peer: values[name] for peer, values in theirs.items()}
        limit = allowed(case, name, list(others.values()))
        # A lone wrong element hides in a norm: it is held to what rounding does to the largest of many.
        ok = norms[name] <= limit and worst[name] <= 64 * limit
        found[name] = {"ours": norms[name], "worst": worst[name], **others, "limit": limit, "ok": ok}
    failed = [name for name, value in found.items() if not value["ok"]]
    return about | {
        "ok": not failed,
        "error": f"off: {', '.join(failed)}" if failed else None,
        "errors": found,
    }


class Inputs:
    """x, the residual, the gradient that arrives, the parameters, and statistics to be given."""

    def __init__(self, case: Case, device: str) -> None:
        generator = torch.Generator(device).manual_seed(zlib.crc32(case.key.encode()))
        C = case.size[1]

        def normal(size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)

        def activation(mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
            filled = empty(case.size, case.dtype, case.layout, device).normal_(generator=generator)
            if std is not None and mean is not None:
                filled.mul_(std.to(filled.dtype)).add_(mean.to(filled.dtype))
            return filled

        shape = (1, C, *[1] * (len(case.size) - 2))
        std = normal((C,)).abs().add_(0.5)
        mean = normal((C,)) if not case.offset else std * case.offset * normal((C,)).sign()
        self.x = activation(mean.reshape(shape), std.reshape(shape))
        self.residual = activation() if case.residual else None
        self.dy = activation()
        self.weight = normal((C,)).abs().add_(0.5)
        self.bias = normal((C,))
        self.mean = mean + 0.3 * std
        self.var = 1.5 * std.square()

    def on(self, channels: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Some channels of everything, in float64."""
        residual = None if self.residual is None else _some(self.residual, channels).double()
        vectors = (self.weight, self.bias, self.mean, self.var)
        weight, bias, mean, var = (vector[list(channels)].double() for vector in vectors)
        return _some(self.x, channels).double(), residual, weight, bias, mean, var, _some(self.dy, channels).double()


def exact(case: Case, inputs: Inputs) -> tuple[Quantities, dict[str, float]]:
    """The quantities in float64, and what the error of each is relative to.

    The gradient that arrives is set to 0 where an activation has its kinks: a float32 that lies on the other side
    of one is no error.
    """
    channels = range(case.size[1]) if case.channels is None else case.channels
    x, residual, weight, bias, mean, var, dy = inputs.on(channels)
    reference = BACKENDS["reference"]
    if not case.given:
        mean, var = reference.moments(x)
    with torch.no_grad():
        before = reference.normalize(x, mean, var, Affine(weight, bias, EPS), Epilogue(residual))
    near = 0.05 if case.dtype != "fp32" else 1e-3
    kinks = {"relu": (0,), "leaky_relu": (0,), "hardswish": (-3, 3)}.get(case.activation, ())
    for kink in kinks:
        dy.masked_fill_((before - kink).abs() < near, 0)
    if kinks:
        if case.channels is None:
            inputs.dy.copy_(dy)
        else:
            for i, channel in enumerate(channels):
                inputs.dy[:, channel].copy_(dy[:, i])
    del before
    leaves = [value.requires_grad_() for value in (x, weight, bias)]
    if residual is not None:
        leaves.append(residual.requires_grad_())
    affine, epilogue = Affine(weight, bias, EPS), Epilogue(residual, case.activation)
    # By given statistics the gradient is what it is before the parts along the mean and along x are taken out;
    # with two values per channel next to nothing is left of it, and rounding of all of it.
    y = reference.normalize(x, mean, var, affine, epilogue)
    whole, *_ = gradients = torch.autograd.grad(y, leaves, dy)
    if not case.given:
        y, mean, var = reference.batch_norm(x, affine, epilogue)
        gradients = torch.autograd.grad(y, leaves, dy)
    true = {"y": y.detach()}
    if not case.given:
        true |= {"mean": mean, "var": var}
    true |= dict(zip(("dx", "dweight", "dbias", "dresidual"), gradients, strict=False))
    scales = {name: value.norm().item() for name, value in true.items()}
    scales["mean"] = var.sqrt().norm().item()
    scales["dx"] = max(scales["dx"], whole.norm().item())
    for name in ("dweight", "dbias"):  # sums of terms of either sign, which may come to nothing
        scales[name] = max(scales[name], dy.norm().item())
    return true, scales


def run(case: Case, backend: Backend, inputs: Inputs) -> Quantities:
    """The same quantities by a backend."""
    leaves = [value.detach().requires_grad_() for value in (inputs.x, inputs.weight, inputs.bias)]
    if inputs.residual is not None:
        leaves.append(inputs.residual.detach().requires_grad_())
    x, weight, bias = leaves[:3]
    affine, epilogue = Affine(weight, bias, EPS), Epilogue(leaves[3] if case.residual else None, case.activation)
    found: Quantities = {}
    if case.given:
        y = backend.normalize(x, inputs.mean, inputs.var, affine, epilogue)
    else:
        y, found["mean"], found["var"] = backend.batch_norm(x, affine, epilogue)
    gradients = torch.autograd.grad(y, leaves, inputs.dy)
    found |= {"y": y.detach(), **dict(zip(("dx", "dweight", "dbias", "dresidual"), gradients, strict=False))}
    for name in _TYPE_OF_X:
        if name in found and (found[name].dtype != inputs.x.dtype or found[name].shape != inputs.x.shape):
            raise TypeError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}, x {inputs.x.dtype}")
    if not found["y"].is_contiguous(memory_format=memory_format(case.size, case.layout)):
        raise TypeError(f"y has strides {found['y'].stride()}, x {inputs.x.stride()}")
    if case.channels is not None:
        chosen = case.channels
        found = {n: _some(value, chosen) if value.ndim > 1 else value[list(chosen)] for n, value in found.items()}
    return found


def _some(x: Tensor, channels: Sequence[int]) -> Tensor:
    """Some channels, taken one by one: an index into a tensor this large may not fit torch's kernels."""
    return torch.stack([x[:, channel] for channel in channels], 1) if len(channels) < x.shape[1] else x


def errors(found: Quantities, true: Quantities, scales: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """By quantity: the norm of the error, and its largest element over what elements are on average."""
    norms: dict[str, float] = {}
    worst: dict[str, float] = {}
    for name, value in true.items():
        off = found[name].double() - value
        scale = max(scales[name], 1e-300)
        norms[name] = off.norm().item() / scale
        worst[name] = off.abs().max().item() / scale * off.numel() ** 0.5
    return norms, worst


def allowed(case: Case, name: str, theirs: Sequence[float]) -> float:
    """The error that passes: torch's best, or what rounding leaves of the exact result, whichever is more.

    Far from zero it is a hundredth of torch's: torch's mean is a single float32, with which the digits go.

    Example:
        >>> case = Case(dtype="fp32", layout="NCHW", size=(8, 2, 4, 4))
        >>> allowed(case, "y", [1e-6, 2e-6])
        1.1e-06
        >>> allowed(case, "y", []) == 4 * ROUNDOFF["fp32"]
        True
    """
    best = min((error for error in theirs if error == error), default=0.0)
    roundings = {"mean": 2 * max(1.0, case.offset), "var": 8, "dweight": 32, "dbias": 32}.get(name)
    if roundings is None:
        held = ROUNDOFF[case.dtype] * (4 if case.dtype == "fp32" else 1)
    else:  # sums of more terms round more often
        many = prod(case.size) // case.size[1] > 100_000
        held = ROUNDOFF["fp32"] * roundings * (4 if many else 1)
    return max(best / 100 if case.offset >= FAR else 1.1 * best, held)


Check = Callable[[Backend, str], str | None]
"""Says what is wrong, if something is."""

"""What a backend is, which there are, and which one takes an input."""

from typing import Literal, Protocol

from torch import Tensor

from truenorm.kernels.activation import Activation
from truenorm.kernels.aten import Aten
from truenorm.kernels.reference import Reference
from truenorm.kernels.triton.backend import Triton


class Backend(Protocol):
    """One implementation of the three operations; the contract suite runs each through the same cases.

    x has shape (N, C, ...), a residual the shape of x, everything else shape (C,). Variances are biased.
    """

    def refusal(self, x: Tensor) -> str | None:
        """Why this backend does not take x; None: it does."""
        ...

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise by the batch: output, mean, biased variance; gradients flow through the output alone."""
        ...

    def normalize(
        self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
    ) -> Tensor:
        """Normalise by given statistics."""
        ...

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel, without gradient."""
        ...


class Tracks(Backend, Protocol):
    """A backend that lets the running statistics take the batch in by itself, where that costs no launch more."""

    def tracked_batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        num_batches_tracked: Tensor | None,
        *,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
        momentum: float | Tensor | None,
        tracking: Literal["pooled", "torch"],
    ) -> Tensor:
        """`batch_norm`, and the buffers take the batch in, as `nn.tracking.track` does it."""
        ...


_ATEN = Aten()
_TRITON = Triton()
BACKENDS: dict[str, Backend] = {"reference": Reference(), "aten": _ATEN, "triton": _TRITON}
"""All of them by name. The reference is for tests: slow, and in float64 as good as the input."""

_PREFERRED: tuple[Tracks, ...] = (_TRITON,)
"""Those asked before aten, which takes everything."""


def backend_for(x: Tensor) -> Backend:
    """The first that takes x."""
    return tracker_for(x) or _ATEN


def tracker_for(x: Tensor) -> Tracks | None:
    """The first that takes x and keeps running statistics itself; None: the layer does, from the moments.

    Tracers, compilers and tensor subclasses get aten: what they make needs no truenorm.
    """
    if type(x) is Tensor:
        for backend in _PREFERRED:
            if backend.refusal(x) is None:
                return backend
    return None

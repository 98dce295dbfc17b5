"""What a backend is, which there are, and which one takes an input."""

from typing import Literal, Protocol

from torch import Tensor

from truenorm.kernels.aten import Aten
from truenorm.kernels.reference import Reference

Activation = Literal["identity", "relu"]
"""What is applied to the output."""


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


_ATEN = Aten()
BACKENDS: dict[str, Backend] = {"reference": Reference(), "aten": _ATEN}
"""All of them by name. The reference is for tests: slow, and in float64 as good as the input."""

_PREFERRED: tuple[Backend, ...] = ()
"""Those asked before aten, which takes everything."""


def backend_for(x: Tensor) -> Backend:
    """The first that takes x. Tracers, compilers and tensor subclasses get aten: what they make needs no truenorm."""
    if type(x) is Tensor:
        for backend in _PREFERRED:
            if backend.refusal(x) is None:
                return backend
    return _ATEN

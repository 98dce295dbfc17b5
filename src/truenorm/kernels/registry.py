"""What a backend is, which there are, and which one takes an input."""

import os
from typing import Literal, Protocol, get_args

from torch import Tensor

from truenorm.errors import UnknownName
from truenorm.kernels.arguments import NOTHING, Affine, Epilogue, Running
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
        self, x: Tensor, affine: Affine, epilogue: Epilogue = NOTHING, running: Running | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Normalise by the batch: output, mean, biased variance; gradients flow through the output alone.

        Running statistics that are given take the batch in, as `track` does it; mean and variance may then be None.
        """
        ...

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor, affine: Affine, epilogue: Epilogue = NOTHING) -> Tensor:
        """Normalise by given statistics."""
        ...

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel, without gradient."""
        ...


Preference = Literal["aten", "triton"]

_ATEN = Aten()
_TRITON = Triton()
BACKENDS: dict[str, Backend] = {"reference": Reference(), "aten": _ATEN, "triton": _TRITON}
"""All of them by name. The reference is for tests: slow, and in float64 as good as the input."""

VARIABLE = "TRUENORM_KERNELS"
"""The environment variable that does what `prefer` does, for a whole process."""


def prefer(backend: Preference) -> Preference:
    """Choose the backend that normalises the inputs it takes; torch's own operators (aten) serve the others.

    Without a call it is `aten`, or what the environment variable `TRUENORM_KERNELS` says. The Triton kernels have been
    interpreted and compiled, and have never run on a GPU: they serve only where they are asked for. Which backend
    takes which device, and why not, `truenorm env` says.

    Args:
        backend: `aten` or `triton`, from here on, in this process.

    Returns:
        the choice so far: giving that back is the undo.

    Raises:
        UnknownName: no such backend.

    Example:
        >>> import truenorm as tn
        >>> before = tn.kernels.prefer("triton")
        >>> tn.kernels.prefer(before)
        'triton'
    """
    global _preferred
    before, _preferred = _preferred, _known("backend", backend)
    return before


def preferred() -> Preference:
    """The choice that `prefer` made, or the environment.

    Example:
        >>> preferred() in ("aten", "triton")
        True
    """
    return _preferred


def _known(what: str, name: str) -> Preference:
    for known in get_args(Preference):
        if name == known:
            return known
    raise UnknownName(what, name, get_args(Preference))


_preferred: Preference = _known(f"backend in the environment variable {VARIABLE}", os.environ.get(VARIABLE) or "aten")


def backend_for(x: Tensor) -> Backend:
    """The preferred backend if it takes x, else aten, which takes everything.

    Tracers, compilers and tensor subclasses get aten: what they make needs no truenorm.
    """
    if _preferred == "triton" and type(x) is Tensor and _TRITON.refusal(x) is None:
        return _TRITON
    return _ATEN

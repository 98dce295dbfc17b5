"""What the operations take, as values. Tuples: the cheapest to make, and known to compilers and tracers."""

from typing import Literal, NamedTuple

from torch import Tensor

Activation = Literal["identity", "relu", "leaky_relu", "silu", "gelu", "hardswish"]
"""Applied to the output, with torch's default parameters (leaky_relu: slope 0.01; gelu: by erf)."""

Recursion = Literal["pooled", "torch"]
"""`pooled`: biased variances, and the variance between batches. `torch`: torch's own recursion, with n/(n−1)."""


class Affine(NamedTuple):
    """The parameters of a normalization: γ and β of shape (C,), or None; ε."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class Epilogue(NamedTuple):
    """What follows in the same sweep where kernels can: a residual r of the shape of x, then an activation."""

    residual: Tensor | None = None
    activation: Activation = "identity"


class Running(NamedTuple):
    """Running statistics, and how they take in a batch.

    Args:
        mean, var: M and V, of shape (C,), updated in place; None: none are kept.
        num_batches: t, the batches so far; raised in place. None: batches are not counted.
        momentum: weight of the new batch (Keras's is 1 − ours); None: an average. 0 leaves M and V as they are. The
            Triton kernels also take a scalar tensor on the device.
        tracking: which recursion.
    """

    mean: Tensor | None
    var: Tensor | None
    num_batches: Tensor | None
    momentum: float | None
    tracking: Recursion


NOTHING = Epilogue()
"""Neither residual nor activation."""

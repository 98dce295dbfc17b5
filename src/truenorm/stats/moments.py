"""Mean, variance and count of each channel, and how they are pooled.

Pooling keeps the variance *between* the parts: it is part of the variance. Everything accumulates in
float64, by means and differences of means, so that no digits cancel (Chan, Golub & LeVeque 1983).

Shapes: C channels, K rules or momenta, T batches.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from truenorm.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of one layer's channels.

    Args:
        mean: of shape (C,), in the units of the activations.
        var: of shape (C,), in squared units: of measured data the biased variance (÷ n); of a rule what
            inference divides by.
        count: values per channel that were pooled, or None where that is not known.
        design_effect: how much noisier the mean of `count` values is than that of independent ones (1 if
            they are independent; above 1 where the values of one image resemble each other; below 1 behind
            another batch norm), or None where it was not measured. D = n·Var(m_b)/σ², mean over channels.

    Raises:
        InvalidInput: mean and var are not two vectors of one length.

    Example:
        >>> import torch
        >>> a = moments(torch.tensor([[1.0], [3.0]]))
        >>> b = moments(torch.tensor([[5.0], [7.0]]))
        >>> a.merge(b).mean.item(), a.merge(b).var.item(), a.merge(b).count
        (4.0, 5.0, 4)
    """

    mean: Tensor
    var: Tensor
    count: int | None = None
    design_effect: float | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.var.shape:
            raise InvalidInput(
                f"mean has shape {tuple(self.mean.shape)} and var {tuple(self.var.shape)}; "
                "both need one number per channel"
            )

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation, of shape (C,)."""
        return self.var.clamp_min(0).sqrt()

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of values together; see `merge`."""
        return merge((self, other))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return self.count == other.count and torch.equal(self.mean, other.mean) and torch.equal(self.var, other.var)


def moments(x: Tensor) -> Moments:
    r"""Moments of each channel of one batch: over samples and positions, biased variance.

    $$ m_c = \frac1n \sum_{i,p} x_{icp} \qquad v_c = \frac1n \sum_{i,p} (x_{icp} - m_c)^2 $$

    Args:
        x: activations of shape (N, C, ...); the channel is dimension 1, as torch has it.

    Returns:
        float64 moments with count n = N · positions.

    Raises:
        InvalidInput: x has fewer than two dimensions or no values.

    Example:
        >>> import torch
        >>> moments(torch.tensor([[1.0, 10.0], [3.0, 10.0]])).var.tolist()
        [1.0, 0.0]
    """
    if x.ndim < 2 or x.numel() == 0:
        raise InvalidInput(f"moments need values of shape (N, C, ...), got shape {tuple(x.shape)}")
    dims = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x.detach().double(), dim=dims, correction=0)
    return Moments(mean, var, x.numel() // x.shape[1])


def merge(parts: Iterable[Moments]) -> Moments:
    r"""The moments of all parts' values together, each part weighted by its count.

    $$ \delta = \mu_2 - \mu_1, \quad n = n_1 + n_2, \quad \mu = \mu_1 + \delta \frac{n_2}{n}, \quad
       \sigma^2 = \frac{n_1 \sigma_1^2 + n_2 \sigma_2^2}{n} + \delta^2 \frac{n_1 n_2}{n^2} $$

    The same for batches, for chunks, for the processes of a parallel run (in rank order: the same bits).

    Args:
        parts: moments with counts, all of C channels.

    Returns:
        float64 moments with the sum of the counts; the design effect is the count-weighted mean.

    Raises:
        InvalidInput: no parts, a part without a count, or different numbers of channels.

    Source: Chan, Golub & LeVeque 1983.

    Example:
        >>> import torch
        >>> x = torch.randn(10, 3)
        >>> together = merge([moments(x[:4]), moments(x[4:])])
        >>> torch.allclose(together.var, moments(x).var), together.count
        (True, 10)
    """
    found = list(parts)
    if not found:
        raise InvalidInput("nothing to merge: no moments were given")
    for part in found:
        if part.count is None:
            raise InvalidInput("moments without a count cannot be merged: nothing says how much each part weighs")
        if part.num_channels != found[0].num_channels:
            raise InvalidInput(
                f"cannot merge moments of {found[0].num_channels} and {part.num_channels} channels; "
                "are these the same layer of the same network?"
            )
    return reduce(_merge_two, found)


def _merge_two(a: Moments, b: Moments) -> Moments:
    assert a.count is not None and b.count is not None
    count = a.count + b.count
    if count == 0:
        return a
    share = b.count / count
    delta = b.mean.double() - a.mean.double()
    mean = a.mean.double() + delta * share
    within = a.var.double() * (1 - share) + b.var.double() * share
    effect = None
    if a.design_effect is not None and b.design_effect is not None:
        effect = a.design_effect * (1 - share) + b.design_effect * share
    return Moments(mean, within + delta.square() * (share * (1 - share)), count, effect)


def mixture(
    keep_K: Tensor, mean_KC: Tensor, var_KC: Tensor, *, weight_KT: Tensor, batch_mean_TC: Tensor, batch_var_TC: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Moments of a weighted mixture: what was stored, and T batches.

    $$ \mu = \sum_j w_j m_j \qquad \sigma^2 = \sum_j w_j \left(v_j + (m_j - \mu)^2\right) \qquad \sum_j w_j = 1 $$

    This is what every pooled rule does at every step; for T batches at once it is one product of
    matrices. The sums are taken about a pivot near the batches, so that nothing cancels.

    Args:
        keep_K: weight of what was stored, of shape (K,).
        mean_KC, var_KC: what was stored, of shape (K, C).
        weight_KT: weight of each batch, of shape (K, T); with `keep_K` each row sums to 1.
        batch_mean_TC, batch_var_TC: means and biased variances of the batches, of shape (T, C).

    Returns:
        mean and variance of shape (K, C).

    Example:
        >>> import torch
        >>> half = torch.tensor([0.5]); old = torch.zeros(1, 1); batch = torch.tensor([[2.0]])
        >>> mixture(half, old, old, weight_KT=half[:, None], batch_mean_TC=batch, batch_var_TC=batch)
        (tensor([[1.]]), tensor([[2.]]))
    """
    keep = keep_K[:, None]
    pivot_C = batch_mean_TC.mean(0)
    offset_TC = batch_mean_TC - pivot_C
    offset_KC = weight_KT @ offset_TC
    mean = keep * (mean_KC - pivot_C) + offset_KC  # about the pivot, until the last line
    share = weight_KT.sum(1, keepdim=True)
    between = weight_KT @ offset_TC.square() - mean * (2 * offset_KC - share * mean)
    var = keep * (var_KC + (mean_KC - pivot_C - mean).square()) + weight_KT @ batch_var_TC + between
    return mean + pivot_C, var.clamp_min(0)

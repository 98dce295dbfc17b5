"""Which samples to take, from labels alone: shares kept, tails made, every draw seeded."""

import math

import numpy as np
import torch
from torch import Tensor

from truenorm.errors import InvalidInput


def seeded(seed: int, draw: int) -> torch.Generator:
    """A generator of its own for each draw of a seed, so that no draw moves with another's size.

    Args:
        seed: the seed of the run, >= 0.
        draw: number of the draw within the run, >= 0.

    Raises:
        InvalidInput: the seed is negative.

    Example:
        >>> first, second = seeded(0, 0), seeded(0, 1)
        >>> first.initial_seed() == second.initial_seed()
        False
    """
    if seed < 0:
        raise InvalidInput(f"seed is {seed}; expected 0 or more")
    state = np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def stratified(labels: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Draw `num` samples so that every class keeps its share.

    Class k of N_k out of N samples gets num * N_k / N, rounded down; the largest remainders get one
    more each until the sum is right, the lower class first where remainders are equal.

    Args:
        labels: class of every sample, integers >= 0 of shape `(N,)`.
        num: how many to draw, 0..N.
        generator: decides which samples of a class are drawn.

    Returns:
        Ascending indices, int64 of shape `(num,)`; each class has less than one more or less than its share.

    Raises:
        InvalidInput: `num` is below 0 or above N.

    Source: Hamilton's method of apportionment.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, 3, seeded(0, 0))]
        tensor([0, 0, 1])
    """
    if not 0 <= num <= len(labels):
        raise InvalidInput(f"{num} samples were asked for; there are {len(labels)}")
    if not num:
        return torch.empty(0, dtype=torch.int64)
    counts_K = labels.bincount()
    # Integers: float shares of 1/3 would make the remainders, and so the draw, a matter of rounding.
    take_K, remainder_K = counts_K * num // len(labels), counts_K * num % len(labels)
    most_K = remainder_K.argsort(descending=True, stable=True)
    take_K[most_K[: num - int(take_K.sum())]] += 1
    return _draw(labels, take_K, generator)


def long_tailed(labels: Tensor, num_classes: int, ratio: float, generator: torch.Generator) -> Tensor:
    r"""Thin the classes out exponentially, class 0 whole and the last kept to 1 / ratio.

    $$ N'_k = \max\bigl(1, \mathrm{round}(N_k R^{-k/(K-1)})\bigr) \quad\text{where } N_k > 0 $$

    Args:
        labels: class of every sample, integers in 0..K-1, shape `(N,)`.
        num_classes: K, absent classes included.
        ratio: R >= 1; 1 keeps everything.
        generator: decides which samples of a class are kept.

    Returns:
        Ascending indices, int64.

    Raises:
        InvalidInput: R is below 1 or not finite.

    Source: the long-tailed CIFAR of Cui et al. 2019.

    Example:
        >>> labels = torch.arange(3).repeat_interleave(100)
        >>> labels[long_tailed(labels, 3, 100.0, seeded(0, 0))].bincount()
        tensor([100,  10,   1])
    """
    if not 1 <= ratio < math.inf:
        raise InvalidInput(f"imbalance is {ratio}; expected 1 (as the set is) or more, finite")
    counts_K = labels.bincount(minlength=num_classes)
    share_K = torch.tensor([ratio ** (-k / max(num_classes - 1, 1)) for k in range(num_classes)], dtype=torch.float64)
    take_K = (counts_K * share_K).round().long().clamp(min=1).minimum(counts_K)
    return _draw(labels, take_K, generator)


def _draw(labels: Tensor, take_K: Tensor, generator: torch.Generator) -> Tensor:
    drawn: list[Tensor] = []
    for k, take in enumerate(take_K):
        members = (labels == k).nonzero().flatten()
        drawn.append(members[torch.randperm(len(members), generator=generator)[: int(take)]])
    return torch.cat(drawn).sort().values

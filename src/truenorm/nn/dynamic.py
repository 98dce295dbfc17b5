"""Running statistics under a momentum that is chosen while a layer trains: by how well it predicted the next batch."""

import math
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from truenorm.kernels.tracking import is_free
from truenorm.rules.predictive import Adaptive, take_in

MOMENTA = Adaptive().momenta
"""The momenta that are followed, fast to slow: those of `rules.Adaptive`."""

_USUAL = 0.1
"""torch's default, which statistics that were loaded were most likely kept with."""

_RELUCTANCE = 1e-3
"""By how much less it is preferred where the averages start anew, in units of the score for a factor e of momentum."""


def fresh_candidates(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances (2, K, C) under K momenta before the first batch, and their scores (K,), for a buffer (C,).

    float32 whatever the layer's type: averages in half precision would stand still.

    Example:
        >>> candidates, scores = fresh_candidates(torch.zeros(3))
        >>> candidates.shape, scores.shape
        (torch.Size([2, 7, 3]), torch.Size([7]))
    """
    candidates = torch.zeros(2, len(MOMENTA), len(mean), dtype=torch.float32, device=mean.device)
    candidates[1] = 1
    return candidates, torch.zeros(len(MOMENTA), dtype=torch.float32, device=mean.device)


class Followed(NamedTuple):
    """The averages of a layer under all momenta, and where the chosen one is stored.

    Args:
        candidates_2KC: means and variances.
        scores_K: how badly each predicted, of late.
        mean, var: the running statistics, of shape (C,).
        num_batches: t.
    """

    candidates_2KC: Tensor
    scores_K: Tensor
    mean: Tensor
    var: Tensor
    num_batches: Tensor


def follow(followed: Followed, mean: Tensor, var: Tensor, eps: float) -> None:
    """Take a batch into all averages, and store that which predicted best so far, in place: `rules.Adaptive`.

    Before a batch the buffers hold what was stored last. If they hold anything else, somebody has written them
    (loaded, assigned, averaged or reset statistics): then all averages start from there, and momenta near 0.1 are
    preferred until batches say otherwise. A batch that is not finite is counted and moves nothing.

    Args:
        followed: of the layer.
        mean, var: of the batch; var is biased.
        eps: ε.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> followed = Followed(*fresh_candidates(running[0]), *running, torch.tensor(0))
        >>> follow(followed, torch.tensor([2.0]), torch.tensor([3.0]), 1e-5)
        >>> running
        (tensor([2.]), tensor([3.]))
    """
    candidates_2KC, scores_K, *running, num_batches = followed
    num_batches.add_(1)
    stored_21C, batch_21C = torch.stack(running)[:, None], torch.stack((mean, var))[:, None].float()
    if is_free(num_batches):
        chosen_2C = _chosen_by_numbers(candidates_2KC, scores_K, stored_21C, batch_21C, int(num_batches), eps)
    else:
        chosen_2C = _chosen_by_tensors(candidates_2KC, scores_K, stored_21C, batch_21C, num_batches, eps)
    for buffer, values in zip(running, chosen_2C, strict=True):
        # Past autograd's version counter, as torch's own batch norm writes.
        (buffer if torch.compiler.is_compiling() else buffer.data).copy_(values)


def _chosen_by_numbers(
    candidates_2KC: Tensor, scores_K: Tensor, stored_21C: Tensor, batch_21C: Tensor, t: int, eps: float
) -> Tensor:
    """Where reading a number is free: half as many operations."""
    shown_21C = candidates_2KC.narrow(1, _least(scores_K), 1)
    if not torch.equal(shown_21C.to(stored_21C.dtype), stored_21C):
        candidates_2KC.copy_(stored_21C)
        scores_K.copy_(_reluctance(scores_K.device))
    if math.isfinite(batch_21C.sum().item()):
        loss_KC = take_in(candidates_2KC, batch_21C, _gains(t), eps)
        scores_K.lerp_(loss_KC.mean(1), min(1.0, max(0.01, 20 / (t + 18))))
    return candidates_2KC.select(1, _least(scores_K))


def _chosen_by_tensors(
    candidates_2KC: Tensor, scores_K: Tensor, stored_21C: Tensor, batch_21C: Tensor, num_batches: Tensor, eps: float
) -> Tensor:
    """Without reading a number: no GPU waits, and no graph breaks."""
    shown_21C = candidates_2KC.index_select(1, scores_K.argmin(0, keepdim=True))
    moved = (shown_21C.to(stored_21C.dtype) != stored_21C).any()
    candidates_2KC.copy_(torch.where(moved, stored_21C.float(), candidates_2KC))
    scores_K.copy_(torch.where(moved, _reluctance(scores_K.device), scores_K))
    finite = batch_21C.sum().isfinite()
    t, alpha_K = num_batches.float(), _momenta(scores_K.device)
    gain_K = finite * alpha_K / -torch.expm1(t * torch.log1p(-alpha_K))
    loss_KC = take_in(candidates_2KC, torch.where(finite, batch_21C, 0), gain_K[:, None], eps)
    scores_K.lerp_(loss_KC.mean(1), finite * (20 / (t + 18)).clamp(0.01, 1))
    return candidates_2KC.index_select(1, scores_K.argmin(0, keepdim=True))[:, 0]


def _least(scores_K: Tensor) -> int:
    scores = scores_K.tolist()
    return scores.index(min(scores))


@lru_cache(maxsize=16)
def _gains(t: int) -> Tensor:
    """The weight of batch t in each average, (K, 1); the layers of a network ask for the same."""
    return torch.tensor([[alpha / -math.expm1(t * math.log1p(-alpha))] for alpha in MOMENTA])


def _momenta(device: torch.device) -> Tensor:
    # A copy to the device makes a GPU wait: made once. A compiler makes a constant of it, and warns of caches.
    return _on(device) if torch.compiler.is_compiling() else _cached_on(device)


def _on(device: torch.device) -> Tensor:
    return torch.tensor(MOMENTA, dtype=torch.float32, device=device)


_cached_on = cache(_on)


def _reluctance(device: torch.device) -> Tensor:
    return _RELUCTANCE * (_momenta(device) / _USUAL).log().abs()

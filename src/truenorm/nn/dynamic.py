"""Running statistics under a momentum that is chosen while a layer trains: by how well it predicted the next batch."""

import math
from functools import cache
from typing import NamedTuple, overload

import torch
from torch import Tensor

from truenorm.kernels.tracking import is_free, pool
from truenorm.rules.predictive import Adaptive
from truenorm.rules.rule import ema_weights

MOMENTA = Adaptive().momenta
"""The momenta that are followed, fast to slow: those of `rules.Adaptive`."""

BLOCK = 32
"""Batches after which a momentum is chosen anew, unless somebody asks before."""

_USUAL = 0.1
"""torch's default, which statistics that were loaded were most likely kept with."""

_RELUCTANCE = 1e-3
"""By how much less it is preferred where the averages start anew, in units of the score for a factor e of momentum."""

_ROUNDING = 1e-4
"""How far, in σ, the buffers may be from the average that they follow: float32 over a block."""


class Followed(NamedTuple):
    """The averages of a layer under all momenta, and where the chosen one is stored.

    Args:
        candidates_2KC: means and variances, as of the batch `settled`.
        scores_K: how badly each predicted, of late; as of that batch.
        rows_T2C: mean and 1/√(v + ε) of the batches since then.
        settled: the batch, counted from 1, up to which all is taken in.
        mean, var: the running statistics, of shape (C,).
        num_batches: t.
    """

    candidates_2KC: Tensor
    scores_K: Tensor
    rows_T2C: Tensor
    settled: Tensor
    mean: Tensor
    var: Tensor
    num_batches: Tensor


def fresh(mean: Tensor, var: Tensor, num_batches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first four of `Followed` for running statistics (C,) as they are: all averages start from there.

    float32 whatever the layer's type: averages in half precision would stand still.

    Example:
        >>> [tuple(values.shape) for values in fresh(torch.zeros(3), torch.ones(3), torch.tensor(0))]
        [(2, 7, 3), (7,), (32, 2, 3), ()]
    """
    running_21C = torch.stack((mean, var)).float()[:, None]
    rows_T2C = running_21C.new_zeros(BLOCK, 2, len(mean))
    scores_K = _reluctance(_on(mean.device))  # made anew: a cached one may be of another mode, such as `meta`
    return running_21C.repeat(1, len(MOMENTA), 1), scores_K, rows_T2C, num_batches.clone()


def next_gain(followed: Followed) -> float | None:
    """The gain of the coming batch under the momentum chosen last; None where it cannot be read for free.

    In half precision there is none either: averages would stand still.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> next_gain(Followed(*fresh(*running, torch.tensor(0)), *running, torch.tensor(0)))
        1.0
    """
    if followed.mean.dtype.itemsize < _FULL or not is_free(followed.num_batches):
        return None
    return _debiased(MOMENTA[_least(followed.scores_K)], int(followed.num_batches) + 1)


def keep(followed: Followed, mean: Tensor, inverse_std: Tensor, eps: float) -> None:
    """Count a batch that the running statistics have taken in with `next_gain`, and choose after each block."""
    followed.num_batches.add_(1)
    t = int(followed.num_batches)
    pending = t - 1 - int(followed.settled)
    if not 0 <= pending < BLOCK:  # the count was set by somebody: what is pending is of another run
        pending = 0
        followed.settled.fill_(t - 1)
    row_2C = followed.rows_T2C[pending]
    row_2C[0].copy_(mean)
    row_2C[1].copy_(inverse_std)
    if pending == BLOCK - 1:
        _settle(followed, followed.rows_T2C, (followed.mean, followed.var), eps)


def follow(followed: Followed, mean: Tensor, var: Tensor, eps: float) -> None:
    """Take a batch into the running statistics, in place, and choose their momentum anew after each block.

    Within a block the buffers are pooled under the momentum that was chosen last. Where reading a number is not free,
    and in half precision, each batch is a block. A batch that is not finite is counted and
    moves no average.

    Args:
        followed: of the layer.
        mean, var: of the batch; var is biased.
        eps: ε.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> followed = Followed(*fresh(*running, torch.tensor(0)), *running, torch.tensor(0))
        >>> follow(followed, torch.tensor([2.0]), torch.tensor([3.0]), 1e-5)
        >>> running
        (tensor([2.]), tensor([3.]))
    """
    gain, inverse_std = next_gain(followed), (var + eps).rsqrt()
    if gain is not None:
        M, V = followed.mean.data, followed.var.data  # past autograd's version counter, as torch's own writes
        pool(M, V, mean.to(M.dtype), var.to(V.dtype), gain)
        keep(followed, mean, inverse_std, eps)
        return
    followed.num_batches.add_(1)
    row_12C = torch.stack((mean, inverse_std)).float()[None]
    momentum = _momenta(row_12C.device).index_select(0, followed.scores_K.argmin(0, keepdim=True))
    finite = row_12C.sum().isfinite()
    M, V = followed.mean.float(), followed.var.float()
    pool(M, V, mean.float(), var.float(), finite * _debiased(momentum, followed.num_batches.float()))
    _settle(followed, row_12C, (M, V), eps)


def settle(followed: Followed, eps: float) -> None:
    """Choose by all batches so far: what is stored then is what `rules.Adaptive` gives, exactly.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> followed = Followed(*fresh(*running, torch.tensor(0)), *running, torch.tensor(0))
        >>> for m in (0.0, 9.0, 18.0, 27.0):
        ...     follow(followed, torch.tensor([m]), torch.tensor([1.0]), 1e-5)
        >>> before = running[0].item()
        >>> settle(followed, 1e-5)  # what moves as fast is followed closely
        >>> before < 18 < running[0].item()
        True
    """
    pending = int(followed.num_batches) - int(followed.settled)
    if 0 < pending <= BLOCK:
        _settle(followed, followed.rows_T2C[:pending], (followed.mean, followed.var), eps)


def _settle(followed: Followed, rows_T2C: Tensor, running: tuple[Tensor, Tensor], eps: float) -> None:
    """Take the rows, the last of them batch t, into all averages at once; store the best.

    If the running statistics, which have taken in the rows, are not what the average chosen last has become, somebody
    has written them (statistics were loaded, assigned, averaged): then all averages start from there.
    """
    candidates_2KC, scores_K, _, settled, running_mean, running_var, num_batches = followed
    alpha_K = _momenta(scores_K.device)
    t_T = num_batches.float() - torch.arange(len(rows_T2C) - 1, -1, -1, device=scores_K.device)
    t_T = t_T.clamp_min(1)
    finite_T = rows_T2C.sum((1, 2)).isfinite()
    mean_TC, inverse_std_TC = torch.where(finite_T[:, None, None], rows_T2C, 1).unbind(1)
    var_TC = (inverse_std_TC.pow(-2) - eps).clamp_min(0)
    gain_KT = finite_T * _debiased(alpha_K[:, None], t_T)
    keep_KT = 1 - gain_KT

    left_KT1, weight_KTT = _weights(gain_KT, keep_KT)
    (mean_KC, var_KC) = candidates_2KC
    after_KTC = left_KT1 * mean_KC[:, None] + weight_KTT @ mean_TC
    square_KTC = (mean_TC - _before(mean_KC, after_KTC)).square_()
    var_after_KTC = left_KT1 * var_KC[:, None] + weight_KTT @ (var_TC + keep_KT[..., None] * square_KTC)
    width_KTC = _before(var_KC, var_after_KTC) + eps
    loss_KT = (square_KTC + (var_TC + eps)).div_(width_KTC).add_(width_KTC.log()).mean(-1)
    left, weight_T = ema_weights(finite_T * (20 / (t_T + 18)).clamp(0.01, 1))
    new_scores_K = left * scores_K + loss_KT @ weight_T

    new_2KC = torch.stack((after_KTC[:, -1], var_after_KTC[:, -1]))
    running_21C = torch.stack(running).float()[:, None]
    followed_21C = new_2KC.index_select(1, scores_K.argmin(0, keepdim=True))
    moved = finite_T.all() & ~_alike(running_21C, followed_21C, eps, running_mean.dtype)
    candidates_2KC.copy_(torch.where(moved, running_21C, new_2KC))
    scores_K.copy_(torch.where(moved, _reluctance(alpha_K), new_scores_K))
    settled.copy_(num_batches)
    chosen_21C = candidates_2KC.index_select(1, scores_K.argmin(0, keepdim=True))
    for buffer, values in zip((running_mean, running_var), chosen_21C, strict=True):
        (buffer if torch.compiler.is_compiling() else buffer.data).copy_(values[0])


def _weights(gain_KT: Tensor, keep_KT: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the start after each batch, (K, T, 1), and the weight of batch s after batch t, (K, t, s)."""
    later_TT = torch.ones(gain_KT.shape[1], gain_KT.shape[1], dtype=torch.bool, device=gain_KT.device).triu(1)
    kept_KST = torch.where(later_TT, keep_KT[:, None], 1.0).cumprod(-1)
    weight_KST = (gain_KT[..., None] * kept_KST).triu()
    return keep_KT.cumprod(-1)[..., None], weight_KST.mT


def _before(start_KC: Tensor, after_KTC: Tensor) -> Tensor:
    return torch.cat((start_KC[:, None], after_KTC[:, :-1]), 1)


def _alike(running_21C: Tensor, followed_21C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Are they the same but for rounding?"""
    rounding = max(_ROUNDING, 8 * torch.finfo(dtype).eps)
    mean_1C, var_1C = followed_21C
    off_mean, off_var = (running_21C - followed_21C).abs()
    width_1C = var_1C + eps
    return (off_mean <= rounding * (width_1C.sqrt() + mean_1C.abs())).all() & (off_var <= rounding * width_1C).all()


@overload
def _debiased(momentum: float, t: int) -> float: ...
@overload
def _debiased(momentum: Tensor, t: Tensor) -> Tensor: ...
def _debiased(momentum: float | Tensor, t: int | Tensor) -> float | Tensor:
    """The gain of batch t, counted from 1: α / (1 − (1 − α)ᵗ)."""
    if isinstance(momentum, Tensor):
        return (momentum / -torch.expm1(t * torch.log1p(-momentum))).clamp_max(1)
    return min(1.0, momentum / -math.expm1(t * math.log1p(-momentum)))


def _least(scores_K: Tensor) -> int:
    scores = scores_K.tolist()
    return scores.index(min(scores))


def _momenta(device: torch.device) -> Tensor:
    # A copy to the device makes a GPU wait: made once. A compiler makes a constant of it, and warns of caches.
    return _on(device) if torch.compiler.is_compiling() else _cached_on(device)


def _on(device: torch.device) -> Tensor:
    return torch.tensor(MOMENTA, dtype=torch.float32, device=device)


_cached_on = cache(_on)

_FULL = 4
"""Bytes of the smallest type whose averages do not stand still."""


def _reluctance(alpha_K: Tensor) -> Tensor:
    return _RELUCTANCE * (alpha_K / _USUAL).log().abs()

"""Running statistics under a momentum that is chosen while a layer trains: by how well it predicted the next batch."""

import math
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


class Followed(NamedTuple):
    """The averages of a layer under all momenta, and where the chosen one is stored.

    Args:
        candidates: means and variances (2, K, C), as of the batch `settled`.
        scores: how badly each predicted, of late, (K,); as of that batch.
        momenta: `MOMENTA`, (K,).
        rows: mean and 1/√(v + ε) of the batches since then, (T, 2, C).
        settled: the batch, counted from 1, up to which all is taken in.
        kept: the batch up to which there are rows.
        written_mean, written_var: what was stored last, to the bit: where the buffers hold anything else, somebody has
            written them.
        mean, var: the running statistics, of shape (C,).
        num_batches: t.
    """

    candidates: Tensor
    scores: Tensor
    momenta: Tensor
    rows: Tensor
    settled: Tensor
    kept: Tensor
    written_mean: Tensor
    written_var: Tensor
    mean: Tensor
    var: Tensor
    num_batches: Tensor


OWN = Followed._fields[:-3]
"""What a layer has beside torch's buffers."""


def afresh(mean: Tensor, var: Tensor, num_batches: Tensor) -> Followed:
    """All averages start from running statistics (C,) as they are, and momenta near 0.1 are preferred.

    float32 whatever the layer's type: averages in half precision would stand still. Rows are kept on CPUs only.

    Example:
        >>> followed = afresh(torch.zeros(3), torch.ones(3), torch.tensor(0))
        >>> [tuple(values.shape) for values in followed[:4]]
        [(2, 7, 3), (7,), (7,), (32, 2, 3)]
    """
    running_21C = torch.stack((mean, var)).float()[:, None]
    momenta_K = torch.tensor(MOMENTA, dtype=torch.float32, device=mean.device)
    own = (running_21C.repeat(1, len(MOMENTA), 1), _reluctance(momenta_K), momenta_K, rows_for(mean))
    counts = (num_batches.clone(), num_batches.clone())
    return Followed(*own, *counts, mean.detach().clone(), var.detach().clone(), mean, var, num_batches)


def rows_for(mean: Tensor) -> Tensor:
    """Room for the rows of a block, where blocks are made: on a CPU.

    Example:
        >>> rows_for(torch.zeros(3)).shape
        torch.Size([32, 2, 3])
    """
    return torch.zeros(BLOCK if mean.is_cpu else 0, 2, len(mean), dtype=torch.float32, device=mean.device)


def next_gain(followed: Followed) -> float | None:
    """The gain of the coming batch under the momentum chosen last; None where it cannot be read for free.

    In half precision there is none either: averages would stand still.

    Example:
        >>> next_gain(afresh(torch.zeros(1), torch.ones(1), torch.tensor(0)))
        1.0
    """
    if followed.mean.dtype.itemsize < _FULL or not is_free(followed.num_batches) or not len(followed.rows):
        return None
    if _is_foreign(followed):
        restart(followed)
    return _debiased(MOMENTA[_least(followed.scores)], int(followed.num_batches) + 1)


def keep(followed: Followed, mean: Tensor, inverse_std: Tensor, eps: float) -> None:
    """Count a batch that the running statistics have taken in with `next_gain`, and choose after each block."""
    before = int(followed.num_batches)
    followed.num_batches.add_(1)
    pending = before - int(followed.settled)
    if before != int(followed.kept) or not 0 <= pending < BLOCK:  # the count was set by somebody
        pending = 0
        followed.settled.fill_(before)
    running = followed.mean.data, followed.var.data  # past autograd's version counter, as torch's own writes
    written = followed.written_mean, followed.written_var
    if math.isfinite(running[1].sum().item()):
        _copy(written, running)
    else:  # a batch that is not finite moves nothing
        _copy(running, written)
    followed.rows[pending].copy_(torch.stack((mean, inverse_std)))
    followed.kept.fill_(before + 1)
    if pending == BLOCK - 1:
        _settle(followed, followed.rows, eps)


def _copy(to: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]) -> None:
    torch._foreach_copy_(to, values)  # pyright: ignore  # one call, as torch's optimizers have it


def follow(followed: Followed, mean: Tensor, var: Tensor, eps: float) -> None:
    """Take a batch into the running statistics, in place, and choose their momentum anew after each block.

    Within a block the buffers are pooled under the momentum that was chosen last. Where reading a number is not free,
    and in half precision, each batch is a block. A batch that is not finite is counted and moves no average.

    Args:
        followed: of the layer.
        mean, var: of the batch; var is biased.
        eps: ε.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> follow(afresh(*running, torch.tensor(0)), torch.tensor([2.0]), torch.tensor([3.0]), 1e-5)
        >>> running
        (tensor([2.]), tensor([3.]))
    """
    gain, inverse_std = next_gain(followed), (var + eps).rsqrt()
    if gain is not None:
        M, V = followed.mean.data, followed.var.data
        pool(M, V, mean.to(M.dtype), var.to(V.dtype), gain)
        keep(followed, mean, inverse_std, eps)
        return
    foreign = (followed.mean != followed.written_mean).any() | (followed.var != followed.written_var).any()
    running_21C = torch.stack((followed.mean, followed.var)).float()[:, None]
    followed.candidates.copy_(torch.where(foreign, running_21C, followed.candidates))
    followed.scores.copy_(torch.where(foreign, _reluctance(followed.momenta), followed.scores))
    followed.num_batches.add_(1)
    _settle(followed, torch.stack((mean, inverse_std)).float()[None], eps)


def settle(followed: Followed, eps: float) -> None:
    """Choose by all batches so far: what is stored then is what `rules.Adaptive` gives, to rounding.

    Example:
        >>> running = torch.zeros(1), torch.ones(1)
        >>> followed = afresh(*running, torch.tensor(0))
        >>> for m in (0.0, 9.0, 18.0, 27.0):
        ...     follow(followed, torch.tensor([m]), torch.tensor([1.0]), 1e-5)
        >>> before = running[0].item()
        >>> settle(followed, 1e-5)  # what moves as fast is followed closely
        >>> before < 18 < running[0].item()
        True
    """
    if _is_foreign(followed):
        restart(followed)
        return
    pending = int(followed.kept) - int(followed.settled)
    if 0 < pending <= BLOCK and int(followed.kept) == int(followed.num_batches):
        _settle(followed, followed.rows[:pending], eps)


def _is_foreign(followed: Followed) -> bool:
    """Do the buffers hold what somebody else has written: loaded, assigned or averaged statistics?"""
    return not (torch.equal(followed.mean, followed.written_mean) and torch.equal(followed.var, followed.written_var))


def restart(followed: Followed) -> None:
    """Start all averages from the running statistics as they are, in place.

    Example:
        >>> followed = afresh(torch.zeros(1), torch.ones(1), torch.tensor(0))
        >>> _ = followed.mean.fill_(5.0)
        >>> restart(followed)
        >>> followed.candidates[0, 0].item()
        5.0
    """
    for now, new in zip(followed, afresh(*followed[-3:]), strict=True):
        now.data.copy_(new)


def _settle(followed: Followed, rows_T2C: Tensor, eps: float) -> None:
    """Take the rows, the last of them batch t, into all averages at once; store the best."""
    t_T = followed.num_batches.float() - torch.arange(len(rows_T2C) - 1, -1, -1, device=rows_T2C.device)
    t_T = t_T.clamp_min(1)
    finite_T = rows_T2C.sum((1, 2)).isfinite()
    mean_TC, inverse_std_TC = torch.where(finite_T[:, None, None], rows_T2C, 1).unbind(1)
    var_TC = (inverse_std_TC.pow(-2) - eps).clamp_min(0)
    gain_KT = finite_T * _debiased(followed.momenta[:, None], t_T)
    keep_KT = 1 - gain_KT

    left_KT1, weight_KTT = _weights(gain_KT, keep_KT)
    mean_KC, var_KC = followed.candidates
    after_KTC = left_KT1 * mean_KC[:, None] + _product(weight_KTT, mean_TC)
    square_KTC = (mean_TC - _before(mean_KC, after_KTC)).square_()
    var_after_KTC = left_KT1 * var_KC[:, None] + _product(weight_KTT, var_TC + keep_KT[..., None] * square_KTC)
    width_KTC = _before(var_KC, var_after_KTC) + eps
    loss_KT = (square_KTC + (var_TC + eps)).div_(width_KTC).add_(width_KTC.log()).mean(-1)
    left, weight_T = ema_weights(finite_T * (20 / (t_T + 18)).clamp(0.01, 1))

    followed.candidates.copy_(torch.stack((after_KTC[:, -1], var_after_KTC[:, -1])))
    followed.scores.copy_(left * followed.scores + (loss_KT * weight_T).sum(1))
    followed.settled.copy_(followed.num_batches)
    followed.kept.copy_(followed.num_batches)
    chosen_2C = followed.candidates.index_select(1, followed.scores.argmin(0, keepdim=True))[:, 0]
    for buffer, written, values in zip(followed[-3:-1], followed[-5:-3], chosen_2C, strict=True):
        # Past autograd's version counter, as torch's own batch norm writes.
        (buffer if torch.compiler.is_compiling() else buffer.data).copy_(values)
        written.copy_(buffer)


def _weights(gain_KT: Tensor, keep_KT: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the start after each batch, (K, T, 1), and the weight of batch s after batch t, (K, t, s)."""
    later_TT = torch.ones(gain_KT.shape[1], gain_KT.shape[1], dtype=torch.bool, device=gain_KT.device).triu(1)
    kept_KST = torch.where(later_TT, keep_KT[:, None], 1.0).cumprod(-1)
    weight_KST = (gain_KT[..., None] * kept_KST).triu()
    return keep_KT.cumprod(-1)[..., None], weight_KST.mT


def _before(start_KC: Tensor, after_KTC: Tensor) -> Tensor:
    return torch.cat((start_KC[:, None], after_KTC[:, :-1]), 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in double precision: autocast and TF32, which are the user's, would round it."""
    return a @ b if a.device.type == "mps" else (a.double() @ b.double()).float()


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


_FULL = 4
"""Bytes of the smallest type whose averages do not stand still."""


def _reluctance(alpha_K: Tensor) -> Tensor:
    return _RELUCTANCE * (alpha_K / _USUAL).log().abs()

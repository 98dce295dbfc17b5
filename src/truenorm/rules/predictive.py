"""Rules that choose among running averages by how well each predicted the next batch: no reference needed."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from truenorm.rules.rule import Batches, Layout, PlainRule, Reading, State, check_momenta
from truenorm.rules.static import SWEEP


@dataclass(frozen=True)
class _Predictive(PlainRule):
    """K averages, their scores by layer; what is shown is the member of least score, the first of equals."""

    momenta: tuple[float, ...]

    def __post_init__(self) -> None:
        check_momenta(self.momenta)

    def init(self, layout: Layout) -> State:
        # float32: the members are compared and shown, not accumulated for long.
        members_2KC = torch.zeros(2, len(self.momenta), sum(layout.sizes), dtype=torch.float32, device=layout.device)
        members_2KC[1] = 1
        score_KL = torch.zeros(len(self.momenta), len(layout.sizes), dtype=torch.float32, device=layout.device)
        return State({"members": members_2KC}, {"score": score_KL})

    def read(self, state: State, layout: Layout) -> Reading:
        best_L = state.layers["score"].argmin(0)
        best_1C = best_L[layout.layer_C][None]
        mean_KC, var_KC = state.channels["members"]
        momentum_K = torch.tensor(self.momenta, dtype=torch.float64, device=layout.device)
        return Reading(mean_KC.gather(0, best_1C), var_KC.gather(0, best_1C), momentum_K[best_L][None])


@dataclass(frozen=True)
class Adaptive(_Predictive):
    r"""Seven pooled running averages per layer, fast to slow; the one that predicts the next batch best is shown.

    Before each update every member k is scored by the Gaussian log score of the new batch, and the scores
    decay, $s_k \leftarrow s_k + f_t (\ell_k - s_k)$ with $f_t = \max(0.01, 20/(t+18))$:

    $$ \ell_k = \mathrm{mean}_c \left[ \ln (V_{kc} + \epsilon) +
       \frac{v_c + \epsilon + (m_c - M_{kc})^2}{V_{kc} + \epsilon} \right] $$

    then follows the pooled, debiased average with gain $a_k = \alpha_k / (1 - (1-\alpha_k)^t)$. Batches
    without gradient (validation in training mode, sorted passes) are not counted: they would lead it astray.

    Args:
        momenta: α, fast to slow.

    Source: the Gaussian log score of forecasting; the pooled variance of `Pooled`.

    Example:
        >>> Adaptive().names
        ('adaptive',)
    """

    momenta: tuple[float, ...] = (0.9, 1 / 2, 1 / 6, 1 / 18, 1 / 54, 1 / 162, 1 / 486)
    counts: ClassVar[Literal["training", "gradient"]] = "gradient"

    @property
    def names(self) -> tuple[str, ...]:
        return ("adaptive",)

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        alpha_K = torch.tensor(self.momenta, dtype=torch.float64)
        t_T = torch.arange(step + 1, step + len(batches) + 1, dtype=torch.float64)
        gain_TK1 = (alpha_K / (1 - (1 - alpha_K) ** t_T[:, None]))[..., None].float().to(layout.device)
        # A batch that is not finite in a layer moves nothing there.
        batch_T2C = torch.stack((batches.mean_TC, batches.var_TC), 1).float()
        finite_TL = layout.mean_by_layer(batch_T2C.sum(1).isfinite().double()) > 1 - 1e-9
        finite_TC = finite_TL[:, layout.layer_C].float()
        batch_T21C = batch_T2C.where(finite_TC[:, None] > 0, 0)[:, :, None]
        eps_C = layout.eps_C.float()

        members_2KC = state.channels["members"].clone()
        mean_KC, var_KC = members_2KC
        losses: list[Tensor] = []
        # Batch by batch, in place, on what fits into a cache: a history of the members would not.
        for batch_21C, ve_C, finite_C, gain_K1 in zip(
            batch_T21C, batch_T21C[:, 1, 0] + eps_C, finite_TC, gain_TK1, strict=True
        ):
            gain_KC = gain_K1 * finite_C
            square = (mean_KC - batch_21C[0]).square_()
            width = var_KC + eps_C
            losses.append(layout.mean_by_layer((square + ve_C).div_(width).add_(width.log_())))
            var_KC.addcmul_(gain_KC, square)
            members_2KC.lerp_(batch_21C, gain_KC)
        fresh_T = [max(0.01, 20 / (t + 18)) if t > 1 else 0.0 for t in range(step + 1, step + len(batches) + 1)]
        fresh_TL = torch.tensor(fresh_T, dtype=torch.float32, device=layout.device)[:, None] * finite_TL
        return _scored(state, members_2KC, losses, fresh_TL)


@dataclass(frozen=True)
class Online(_Predictive):
    r"""torch's running statistics under, for each layer, the momentum that best predicted the batches so far.

    Dynamic momentum without a reference: the score is the scale-free squared error of means and standard
    deviations against the next batch, discounted with $f = 0.01$:

    $$ \ell_k = \mathrm{mean}_c \frac{(m_c - M_{kc})^2 + (s_c - \sqrt{V_{kc}})^2}{s_c^2 + \epsilon} \qquad
       s_c^2 = v_c \tfrac{n}{n-1} $$

    Args:
        momenta: the members, in (0, 1].

    Example:
        >>> Online().names
        ('dmbn-online',)
    """

    momenta: tuple[float, ...] = SWEEP

    @property
    def names(self) -> tuple[str, ...]:
        return ("dmbn-online",)

    def update(self, state: State, batches: Batches, step: int, layout: Layout) -> State:
        gain_K1 = torch.tensor(self.momenta, dtype=torch.float32, device=layout.device)[:, None]
        batch_T21C = torch.stack((batches.mean_TC, batches.unbiased_TC), 1).float()[:, :, None]
        std_TC, weight_TC = batch_T21C[:, 1, 0].sqrt(), 1 / (batch_T21C[:, 1, 0] + layout.eps_C.float())
        members_2KC = state.channels["members"].clone()
        mean_KC, var_KC = members_2KC
        losses: list[Tensor] = []
        for batch_21C, s_C, w_C in zip(batch_T21C, std_TC, weight_TC, strict=True):
            error = (mean_KC - batch_21C[0]).square_()
            losses.append(layout.mean_by_layer(var_KC.sqrt().sub_(s_C).square_().add_(error).mul_(w_C)))
            members_2KC.lerp_(batch_21C, gain_K1)
        fresh_T = [0.01 if step + t else 1.0 for t in range(len(batches))]
        fresh_TL = torch.tensor(fresh_T, dtype=torch.float32, device=layout.device)[:, None].expand(
            -1, len(layout.sizes)
        )
        return _scored(state, members_2KC, losses, fresh_TL)


def _scored(state: State, members_2KC: Tensor, losses: list[Tensor], fresh_TL: Tensor) -> State:
    """The state after the block, its scores decayed batch by batch: s ← s + f (ℓ − s)."""
    score_KL = state.layers["score"]
    for loss_KL, fresh_L in zip(losses, fresh_TL, strict=True):
        score_KL = torch.lerp(score_KL, loss_KL, fresh_L)
    return State({"members": members_2KC}, {"score": score_KL})

"""Estimation shift: how far the statistics that inference uses are from those of the population."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from truenorm.errors import InvalidInput, UnknownName
from truenorm.show import Table, number
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DEAD_BELOW = 1e-3
"""Channels whose variance is below this (100 ε at torch's ε) are dead: ε decides what they give."""

_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShift:
    """Shift of one layer's statistics from a reference; root mean squares over its live channels.

    Args:
        layer: its name.
        shift: S = √(mean 2·KL), in units of the population's σ; 0 is exact, 1 is off by about one σ.
        mean_error: rms of d = (μ̂ − μ)/σ.
        log_std_error: rms of λ = ln(σ̂/σ).
        esm_mean: ‖μ̂ − μ‖₂ over channels, in the units of the activations.
        esm_var: ‖σ̂² − σ²‖₂ over channels, in their squares.
        noise_floor: what S would be for exact statistics, because the reference is a sample; None where the
            size of the sample is not known. Below it nothing can be told.
        num_channels: how many channels the layer has.
        num_dead: how many of them were left out as dead.
    """

    layer: str
    shift: float
    mean_error: float
    log_std_error: float
    esm_mean: float
    esm_var: float
    noise_floor: float | None
    num_channels: int
    num_dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftReport:
    """Estimation shift of every layer, in the order of the reference; shows itself as a table.

    Example:
        >>> import torch
        >>> truth = Statistics({"bn": Moments(torch.zeros(2), torch.ones(2))})
        >>> report = estimation_shift(Statistics({"bn": Moments(torch.ones(2), torch.ones(2))}), truth)
        >>> report["bn"].mean_error, report.mean
        (1.0, 1.0)
    """

    layers: tuple[LayerShift, ...]

    def __getitem__(self, layer: str) -> LayerShift:
        for found in self.layers:
            if found.layer == layer:
                return found
        raise UnknownName("layer", layer, [found.layer for found in self.layers])

    @property
    def mean(self) -> float:
        """Mean of the layers' S."""
        return math.fsum(found.shift for found in self.layers) / len(self.layers)

    @property
    def worst(self) -> LayerShift:
        """The layer of largest S."""
        return max(self.layers, key=lambda found: found.shift)

    def table(self) -> Table:
        """A row per layer."""
        return Table(
            title="estimation shift, in σ of the population",
            columns=("layer", "shift", "noise floor", "mean off by", "ln σ off by", "dead channels"),
            rows=tuple(
                (
                    found.layer,
                    number(found.shift),
                    "" if found.noise_floor is None else number(found.noise_floor, 2),
                    number(found.mean_error),
                    number(found.log_std_error),
                    str(found.num_dead) if found.num_dead else "",
                )
                for found in self.layers
            ),
        )

    def __rich__(self) -> "RichTable":
        return self.table().__rich__()

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Layer → its figures."""
        return {found.layer: asdict(found) for found in self.layers}


def estimation_shift(stats: Statistics, reference: Statistics) -> ShiftReport:
    r"""How far statistics are from a reference, layer by layer.

    With $d = (\hat\mu - \mu)/\sigma$ and $\lambda = \ln(\hat\sigma/\sigma)$ per channel, and the reference
    (μ, σ) the truth:

    $$ \mathrm{KL} = \lambda + \tfrac12 \left( e^{-2\lambda} (1 + d^2) - 1 \right) \approx \tfrac12 d^2 + \lambda^2
       \qquad S = \sqrt{\mathrm{mean}_c\, 2\,\mathrm{KL}} $$

    S does not change with the units or the width of a layer, so layers can be compared; the plain norms
    (`esm_mean`, `esm_var`) do, and are given because the literature has them.

    Args:
        stats: what inference would use.
        reference: what is taken as the truth, such as `measure(model, loader)`.

    Returns:
        a report over the layers of the reference. Statistics that are none (NaN, inf, a negative variance) are off
        by inf. Dead channels (variance below 0.001) are left out and
        counted; in a layer of dead channels only, those that are not constant are compared, with ε added to
        their variances.

    Raises:
        InvalidInput: a layer of the reference is missing, has another number of channels, or holds no
            statistics (a mean that is not finite, a variance that is not finite or negative).

    Source: Gaussian relative entropy; ESM as the plain norms, after Huang et al. 2022 (whose exact
    normaliser could not be checked).

    Example:
        >>> import torch
        >>> truth = Statistics({"bn": Moments(torch.zeros(4), torch.full((4,), 4.0), 100)})
        >>> stored = Statistics({"bn": Moments(torch.full((4,), 2.0), torch.full((4,), 4.0))})
        >>> estimation_shift(stored, truth)["bn"].shift
        1.0
    """
    missing = [layer for layer in reference if layer not in stats]
    if missing:
        raise InvalidInput(
            f"the reference has layer {missing[0]!r}, the statistics do not; "
            "were both taken from the same network, and did every layer see a batch?"
        )
    if not reference:
        raise InvalidInput("the reference holds no layer; measure one with truenorm.measure(model, data)")
    return ShiftReport(layers=tuple(layer_shift(name, stats[name], reference[name]) for name in reference))


def layer_shift(layer: str, stats: Moments, reference: Moments) -> LayerShift:
    """The figures of one layer; see `estimation_shift`.

    Example:
        >>> import torch
        >>> truth = Moments(torch.zeros(1), torch.ones(1))
        >>> layer_shift("bn", Moments(torch.zeros(1), torch.ones(1)), truth).shift
        0.0
    """
    if stats.num_channels != reference.num_channels:
        raise InvalidInput(
            f"layer {layer!r} has {stats.num_channels} channels in the statistics and "
            f"{reference.num_channels} in the reference; compare the same network"
        )
    if not _are_statistics(reference):
        raise InvalidInput(
            f"layer {layer!r} of the reference holds no statistics (a mean or variance that is not finite, or a "
            "negative variance), so nothing can be compared with it; measure it again on data without NaN or inf"
        )
    stats = Moments(stats.mean.to(reference.mean.device), stats.var.to(reference.var.device))
    live = _live(reference)
    d_C, log_C = errors(stats, reference)
    divergence_C = log_C + (torch.expm1(-2 * log_C) + torch.exp(-2 * log_C) * d_C.square()) / 2
    return LayerShift(
        layer=layer,
        shift=_root(2 * _mean(divergence_C, live)) if _are_statistics(stats) else math.inf,
        mean_error=_root(_mean(d_C.square(), live)),
        log_std_error=_root(_mean(log_C.square(), live)),
        esm_mean=(stats.mean.double() - reference.mean.double()).norm().item(),
        esm_var=(stats.var.double() - reference.var.double()).norm().item(),
        noise_floor=noise_floor(reference),
        num_channels=reference.num_channels,
        num_dead=int((reference.var <= DEAD_BELOW).sum()),
    )


def errors(stats: Moments, reference: Moments) -> tuple[Tensor, Tensor]:
    r"""Per channel: $d = (\hat\mu-\mu)/\sigma$ and $\lambda = \ln(\hat\sigma/\sigma)$, float64, of shape (C,).

    Dead channels get 0. If all are dead, those that are not constant are compared
    with ε = 1e-5 added to both variances, as inference adds it.

    Example:
        >>> import torch
        >>> d, lam = errors(Moments(torch.ones(1), torch.ones(1)), Moments(torch.zeros(1), torch.ones(1)))
        >>> d.item(), lam.item()
        (1.0, 0.0)
    """
    live = _live(reference)
    tiny = torch.finfo(torch.float64).tiny
    eps = 0.0 if bool((reference.var > DEAD_BELOW).any()) else _EPS
    var = torch.where(live, reference.var.double() + eps, 1.0)
    d_C = (stats.mean.double().to(var.device) - reference.mean.double()) / var.sqrt()
    log_C = ((stats.var.double().to(var.device).clamp_min(0) + eps).clamp_min(tiny) / var).log() / 2
    zero = torch.zeros_like(var)
    return torch.where(live, d_C, zero), torch.where(live, log_C, zero)


def noise_floor(reference: Moments) -> float | None:
    r"""What S is expected to be for exact statistics, since the reference pools N values only.

    $$ \sqrt{(D + \max(D, 1)) / N} $$

    None where the count or the design effect D was not measured: one giant batch does not tell D.
    D/N is the variance of d; 1/N that of √2·λ for independent Gaussian values, D/N for dependent ones.

    Example:
        >>> import torch
        >>> noise_floor(Moments(torch.zeros(1), torch.ones(1), count=200, design_effect=1.0))
        0.1
    """
    if not reference.count or reference.design_effect is None:
        return None
    effect = reference.design_effect
    return math.sqrt((effect + max(effect, 1.0)) / reference.count)


def _are_statistics(moments: Moments) -> bool:
    """Are all means and variances finite, and no variance negative?"""
    return bool((moments.mean.isfinite() & moments.var.isfinite() & (moments.var >= 0)).all())


def _live(reference: Moments) -> Tensor:
    """Channels that are compared: those that are not dead; if all are, those that are not constant."""
    live = reference.var > DEAD_BELOW
    return live if bool(live.any()) else reference.var > 0


def _root(divergence: float) -> float:
    """Its square root; rounding can take a zero below zero, and statistics that are no numbers are far off."""
    return math.inf if math.isnan(divergence) else math.sqrt(max(0.0, divergence))


def _mean(values_C: Tensor, live: Tensor) -> float:
    """Mean over live channels; 0 where there is none (then the layer says nothing)."""
    return values_C[live].mean().item() if bool(live.any()) else 0.0

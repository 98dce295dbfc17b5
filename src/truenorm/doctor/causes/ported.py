"""Statistics that were written by another convention than torch's: ports between frameworks and versions of one."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch

from truenorm.doctor.examine import Case, distance, slope_of_means
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import ChangeCode, RepairStatistics
from truenorm.stats.moments import Moments
from truenorm.stats.statistics import Statistics

_FITS = 0.8
"""Share of the shift that must be gone with the numbers read as that convention has them."""

_FACTOR = 0.1
"""|ln k| from which on a common factor k is looked at."""

_AGREE = 0.15
"""How far the factors that means and variances fit may be apart."""

Stored = Literal["1/σ", "σ", "1/σ²"]
"""What the buffer of the variance holds."""

_VARIANCES: dict[Stored, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "1/σ": lambda value, eps: (value.clamp_min(1e-12).pow(-2) - eps).clamp_min(0),
    "σ": lambda value, eps: value.square(),
    "1/σ²": lambda value, eps: value.clamp_min(1e-12).reciprocal(),
}
"""The variance, from what is stored."""


def find(case: Case) -> Iterable[Finding]:
    """What is stored is read by each convention and compared with what was measured, in all layers together."""
    # One convention is in means and variances alike: layers that use but one of them tell nothing.
    names = [name for name in case.moved if case.layers[name].behaviour.uses_both]
    if not names:
        return
    before = distance(case.stored, case.joint, names)
    if before <= 0:
        return

    def explained(read: dict[str, Moments]) -> float:
        return 1 - distance(Statistics(read), case.joint, names) / before

    stored = {name: case.stored[name] for name in names}
    remedy = RepairStatistics(next_time=ChangeCode(what="convert statistics"))
    never = _never_updated(stored)
    if never is not None:
        rest = {name: _with_part(moments, never, case.joint[name]) for name, moments in stored.items()}
        yield Finding(
            cause="updated in part",
            evidence={"buffer": never},
            explained=explained(rest),
            layers=tuple(names),
            remedy=remedy,
        )
        return
    candidates: list[tuple[float, Finding]] = []
    factor = _factor(case, names)
    if abs(math.log(factor)) > _FACTOR and abs(slope_of_means(case, names) / factor - 1) < _AGREE:
        share = explained({name: Moments(m.mean / factor, m.var / factor) for name, m in stored.items()})
        evidence = {"factor": factor, "compared": len(names)}
        candidates.append((share, Finding(cause="common factor", evidence=evidence, explained=share, remedy=remedy)))
    for what, variance in _VARIANCES.items():
        read = {name: Moments(m.mean, variance(m.var.double(), case.layers[name].eps)) for name, m in stored.items()}
        share = explained(read)
        candidates.append(
            (share, Finding(cause="not the variance", evidence={"stored": what}, explained=share, remedy=remedy))
        )
    share, finding = max(candidates, key=lambda candidate: candidate[0])
    if share > _FITS:
        yield finding


def _never_updated(stored: dict[str, Moments]) -> Literal["running_mean", "running_var"] | None:
    """The buffer that holds its initial value in all layers while the other one moved."""
    if all(bool((m.var == 1).all()) for m in stored.values()):
        return "running_var"
    return "running_mean" if all(bool((m.mean == 0).all()) for m in stored.values()) else None


def _with_part(moments: Moments, buffer: str, truth: Moments) -> Moments:
    """The moments with the buffer that was never updated as it should be."""
    return Moments(moments.mean, truth.var) if buffer == "running_var" else Moments(truth.mean, moments.var)


def _factor(case: Case, names: list[str]) -> float:
    """By what all variances are too large, in the median of channels."""
    logs = [
        (case.stored[name].var.double().clamp_min(1e-12) / case.joint[name].var.double().clamp_min(1e-12)).log()
        for name in names
    ]
    return float(torch.cat(logs).median().exp())

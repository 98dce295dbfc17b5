"""Weights that the statistics were not taken with: averaged (SWA, EMA, teachers, merges), pruned."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from truenorm.doctor.causes.domain import from_the_data
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.stats.shift import errors

_ZEROS = 0.2
"""Share of weights that are exactly 0 from which on a network was pruned."""

_SHRUNK = 0.78
"""Share of channels that vary less than what is stored, over layers, from which on it is no accident."""


def find(case: Case) -> Iterable[Finding]:
    names = [n for n in case.joint if n in case.stored and not case.layers[n].damaged and not case.layers[n].untouched]
    if not names:
        return
    averaged = [module for module in case.model.modules() if isinstance(module, AveragedModel)]
    zeros, total = _zeros(case.model)
    if total and zeros / total > _ZEROS:
        yield Finding(
            cause="pruned weights",
            sentence=f"{zeros / total:.0%} of the weights are exactly 0, and the statistics are off: they were taken "
            "before the network was pruned",
            share=0.84,
        )
    # Averages are shorter than what they are made of: what reaches a layer varies less than what was stored.
    less = torch.stack([(errors(case.stored[name], case.exact[name])[1] > 0).double().mean() for name in names])
    log_std = torch.stack([errors(case.stored[name], case.exact[name])[1].median() for name in names])
    shrunk = float(less.mean())
    if averaged:
        number = int(getattr(averaged[0], "n_averaged", torch.tensor(0)))
        yield Finding(
            cause="averaged weights",
            sentence=f"these are averaged weights ({number} models), and the statistics are copies of the last one's: "
            "they belong to other weights",
            share=0.84,
        )
    elif shrunk > _SHRUNK and float(log_std.median()) > 0.02 and (from_the_data(case) or 0.0) < 0.9:
        by = float(torch.exp(log_std.median()))
        yield Finding(
            cause="averaged weights",
            sentence=f"what reaches the layers varies less than what is stored: in {shrunk:.0%} of the channels, by a "
            f"factor of {by:.2f} in the middle layer; so it is with weights that were averaged (SWA, EMA, teacher, "
            "merged) and kept the statistics of others",
            share=min(0.75, 0.55 + 0.2 * float(log_std.median()) / 0.3),
        )


def _zeros(model: nn.Module) -> tuple[int, int]:
    weights = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.weight.numel() > 1
    ]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)

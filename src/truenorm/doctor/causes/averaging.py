"""Weights that the statistics were not taken with: averaged (SWA, EMA, teachers, merges), pruned."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from truenorm.doctor.causes.domain import from_the_data
from truenorm.doctor.causes.lag import alone
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import OTHER_WEIGHTS, SHRUNK
from truenorm.stats.moments import Moments
from truenorm.stats.shift import errors
from truenorm.stats.statistics import Statistics

_ZEROS = 0.2
"""Share of weights that are exactly 0 from which on a network was pruned."""

_SHRUNK = 0.78
"""Share of channels that vary less than what is stored, over layers, from which on it is no accident."""

_MATTERS = 0.1
"""Share of the errors that is gone where each layer's variances shrink by one factor, from which on that is a cause."""

_LARGE = 0.3
"""Logarithm of the factor from which on a larger one is no stronger evidence."""


_FROM_DATA = 0.9
"""From here on too much speaks for the data."""


def find(case: Case) -> Iterable[Finding]:
    names = case.moved
    if not names:
        return
    averaged = [m for m in case.model.modules() if isinstance(m, AveragedModel) and not m.use_buffers]
    zeros, total = _zeros(case.model)
    if total and zeros / total > _ZEROS:
        yield Finding(
            cause="pruned weights",
            evidence={"zeros": zeros / total},
            rank=OTHER_WEIGHTS,
        )
    # Averages are shorter than what they are made of: what reaches a layer varies less than what was stored.
    less = torch.stack([(errors(case.stored[name], case.exact[name])[1] > 0).double().mean() for name in names])
    log_std = torch.stack([errors(case.stored[name], case.exact[name])[1].median() for name in names])
    shrunk = float(less.mean())
    if averaged:
        models = int(getattr(averaged[0], "n_averaged", torch.tensor(0)))
        yield Finding(cause="averaged weights", evidence={"models": models}, rank=OTHER_WEIGHTS)
        return
    log_factor = float(log_std.median())
    if (
        len(names) < 2
        or alone(case) is not None
        or shrunk <= _SHRUNK
        or log_factor <= 0.02
        or (from_the_data(case) or 0.0) >= _FROM_DATA
    ):
        return
    as_shrunk = {
        name: Moments(case.stored[name].mean, case.stored[name].var * math.exp(-2 * log))
        for name, log in zip(names, log_std.tolist(), strict=True)
    }
    before = distance(case.stored, case.exact, names)
    if distance(Statistics(as_shrunk), case.exact, names) < (1 - _MATTERS) * before:
        yield Finding(
            cause="averaged weights",
            evidence={
                "channels": shrunk,
                "factor": math.exp(log_factor),
                "shrinkage": min(1.0, log_factor / _LARGE),
            },
            rank=SHRUNK,
        )


def _zeros(model: nn.Module) -> tuple[int, int]:
    weights = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.weight.numel() > 1
    ]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)

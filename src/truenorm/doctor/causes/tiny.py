"""Tiny batches: torch stores n/(n−1) times the variance of training, which is too much behind other batch norms."""

import math
from collections.abc import Iterable
from functools import cache

import torch

from truenorm.doctor.causes.initial import LEAST, initial_weight, mixed
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import TRAINED_WITH
from truenorm.doctor.remedy import ConvertLayers, RepairStatistics, RetrainWith
from truenorm.stats.moments import Moments
from truenorm.stats.shift import errors
from truenorm.stats.statistics import Statistics

_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_SAMPLES = 512

_SMALL = 4
"""Batches of so many samples or fewer do harm in training itself."""


def find(case: Case) -> Iterable[Finding]:
    size, explained, ratio = _fitted(case)
    if size is None:
        if len(case.sizes) > 1 and max(case.sizes) <= _SMALL:
            yield Finding(
                cause="tiny batches",
                evidence={"batch_size": max(case.sizes), "convention": None},
                level="note",
                remedy=RetrainWith(),
            )
        return
    yield Finding(
        cause="variance convention",
        evidence={"ratio": ratio, "batch_size": size, "unbiased": size / (size - 1)},
        explained=explained,
        remedy=RepairStatistics(next_time=ConvertLayers(small_batch=size if size <= _SMALL else None)),
    )
    if size <= _SMALL:
        yield Finding(
            cause="tiny batches",
            evidence={"batch_size": size, "convention": explained},
            rank=TRAINED_WITH,
            remedy=RetrainWith(),
        )


def _fitted(case: Case) -> tuple[int | None, float, float]:
    """The batch size whose stored variances would look most like these, how much of the shift that explains, ratio."""
    names = [name for name in case.compared if not case.layers[name].pooled]
    if len(names) < 2 or case.sample is None or case.sample.joined is None:
        return None, 0.0, 1.0
    left = {name: initial_weight(case.layers[name]) or 0.0 for name in names}
    if max(left.values()) >= LEAST:
        return None, 0.0, 1.0  # what is left of the initial 1 would be taken for another batch size
    behind = names[1:]  # the first one's input has no batch norm before it
    log_std = torch.cat([errors(case.stored[name], mixed(case.exact[name], left[name]))[1] for name in behind])
    if float(log_std.median()) < 0.01:
        return None, 0.0, 1.0
    part = case.sample.rows(torch.arange(min(_SAMPLES, len(case.sample))))
    without = Statistics({name: mixed(case.joint[name], left[name]) for name in names})
    before = distance(case.stored, without, behind)

    @cache
    def fit(place: int) -> tuple[float, int, float]:
        size = sizes[place]
        _, within = case.measure_both(part.batched(size))
        as_torch = Statistics({name: mixed(_unbiased(within[name], size, len(part)), left[name]) for name in names})
        off = torch.cat([errors(case.stored[name], mixed(within[name], left[name]))[1] for name in behind])
        return distance(case.stored, as_torch, behind), size, float(torch.exp(2 * off.median()))

    sizes = [size for size in _SIZES if size < len(part)]
    if not sizes:
        return None, 0.0, 1.0
    # Each size costs a pass: those around the one that fits are measured, from the one that the variances tell.
    expected = -1 / math.expm1(-2 * float(log_std.median()))
    place, previous = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / expected))), -1
    while place != previous:
        around = range(max(0, place - 1), min(len(sizes), place + 2))
        place, previous = min(around, key=fit), place
    after, size, ratio = min((before, 0, 1.0), fit(place))
    # What it leaves unexplained in the first layer counts, too.
    whole = distance(case.stored, case.joint, names) * len(names)
    share = (before - after) * len(behind) / whole if whole > 0 else 0.0
    if not size or share < 0.2:
        return None, 0.0, 1.0
    return size, share, ratio


def _unbiased(moments: Moments, size: int, samples: int) -> Moments:
    positions = (moments.count or samples) / samples
    n = max(2.0, size * positions)
    return Moments(moments.mean, moments.var * (n / (n - 1)), moments.count)

"""Buffers that hold no statistics: NaN, inf, negative variances; or too few digits."""

from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import BUFFERS
from truenorm.doctor.remedy import ChangeCode


def find(case: Case) -> Iterable[Finding]:
    not_finite: list[str] = []
    negative: list[str] = []
    half: list[str] = []
    for name, layer in case.layers.items():
        if layer.stored is None:
            continue
        if not bool((layer.stored.mean + layer.stored.var).isfinite().all()):
            not_finite.append(name)
        elif bool((layer.stored.var < 0).any()):
            negative.append(name)
        if layer.dtype in (torch.float16, torch.bfloat16):
            half.append(name)
    if not_finite:
        worst = case.layers[not_finite[0]].stored
        assert worst is not None
        channels = int((~(worst.mean + worst.var).isfinite()).sum())
        yield Finding(
            cause="not finite",
            evidence={"channels": channels, "of_channels": worst.num_channels},
            rank=BUFFERS,
            level="defect",
            layers=tuple(not_finite),
        )
    if negative:
        worst = case.layers[negative[0]].stored
        assert worst is not None
        yield Finding(
            cause="negative variance",
            evidence={"lowest": float(worst.var.min())},
            rank=BUFFERS,
            level="defect",
            layers=tuple(negative),
        )
    if half:
        yield Finding(
            cause="half precision",
            evidence={"dtype": str(case.layers[half[0]].dtype).removeprefix("torch.")},
            level="note",
            layers=tuple(half),
            remedy=ChangeCode(what="float32 statistics"),
        )

"""Buffers that hold no statistics: NaN, inf, negative variances; or too few digits."""

from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some


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
            sentence=f"NaN or inf is stored in {some(not_finite)} ({channels} of {worst.num_channels} channels in the "
            "first): one bad batch stays in a running average for ever",
            share=1.0,
            level="defect",
            layers=tuple(not_finite),
        )
    if negative:
        worst = case.layers[negative[0]].stored
        assert worst is not None
        yield Finding(
            cause="negative variance",
            sentence=f"a negative variance ({float(worst.var.min()):.3g}) is stored in {some(negative)}: eval() takes "
            "its square root; E[x²] − E[x]² in float32, or an average of weights that went over the buffers, does that",
            share=1.0,
            level="defect",
            layers=tuple(negative),
        )
    if half:
        kind = str(case.layers[half[0]].dtype).removeprefix("torch.")
        yield Finding(
            cause="half precision",
            sentence=f"the statistics of {some(half)} are {kind}: running averages stall in it, and variances "
            "above 65,504 or below 6e-8 do not fit float16; keep batch norm in float32 (model.float() on these layers)",
            share=0.05,
            level="note",
            layers=tuple(half),
            remedy="code",
        )

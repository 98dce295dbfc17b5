"""Layers that counted more batches than were trained on, or not as many as each other."""

from collections import Counter
from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some


def find(case: Case) -> Iterable[Finding]:
    counted = {
        name: layer.batches
        for name, layer in case.layers.items()
        if layer.batches and not layer.frozen and layer.momentum != 0 and name != case.repeated
    }
    if not counted:
        return
    common = Counter(counted.values()).most_common(1)[0][0]
    steps = _steps(case.optimizer)
    if steps and common > 1.5 * steps:
        yield Finding(
            cause="updated twice",
            sentence=f"{common:,} batches were counted in {steps:,} steps of the optimizer, {common / steps:.2g} for "
            "each: activation checkpointing runs forwards twice, and forwards in train() beside the training count too "
            "(with gradient accumulation it is right)",
            share=0.6,
            level="defect",
            layers=tuple(counted),
            remedy="code",
            advice="put eval() around forwards that are not training, or train under truenorm.watch(model), which "
            "knows repeated forwards",
        )
        return
    least = min(counted.values())
    twice = {name: count for name, count in counted.items() if count >= 1.9 * least}
    if twice and len(counted) > len(twice):
        name, count = next(iter(twice.items()))
        yield Finding(
            cause="updated twice",
            sentence=f"{some(twice)} counted {count:,} batches, other layers {least:,}: {count / least:.2g} updates "
            "for each; activation checkpointing runs a segment's forward twice",
            share=0.6,
            level="defect",
            layers=tuple(twice),
            remedy="code",
            advice=f"train under truenorm.watch(model), which knows repeated forwards, or set the momentum of "
            f"{name} to 1 − √(1 − m)",
        )


def _steps(optimizer: torch.optim.Optimizer | None) -> int:
    """Steps that the optimizer made, where it counts them (Adam does, SGD does not)."""
    if optimizer is None:
        return 0
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)

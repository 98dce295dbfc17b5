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
        if layer.batches and not layer.frozen and layer.momentum != 0 and name not in case.repeated
    }
    if not counted:
        return
    common = Counter(counted.values()).most_common(1)[0][0]
    steps = _steps(case.optimizer)
    if steps and _is_twice(common / steps):
        yield Finding(
            cause="updated twice",
            sentence=f"{common:,} batches were counted in {steps:,} steps of the optimizer, {common / steps:.2g} for "
            "each: activation checkpointing runs forwards twice, and forwards in train() beside the training count too "
            "(with gradients accumulated over two batches it is right)",
            share=0.6,
            layers=tuple(counted),
            remedy="code",
            advice="put eval() around forwards that are not training, or train under truenorm.watch(model), which "
            "knows repeated forwards",
        )
        return
    least = min(counted.values())
    twice = {name: count for name, count in counted.items() if _is_twice(count / least)}
    if twice and all(name in twice or count == least for name, count in counted.items()):
        name, count = next(iter(twice.items()))
        yield Finding(
            cause="updated twice",
            sentence=f"{some(twice)} counted {count:,} batches, other layers {least:,}: {count / least:.2g} updates "
            "for each; activation checkpointing runs a segment's forward twice"
            + ("" if case.estimates else " (or they are called twice per forward: data would tell)"),
            share=0.6,
            # Only data show whether it is not simply called twice.
            level="defect" if case.estimates else "cause",
            layers=tuple(twice),
            remedy="code",
            advice=f"train under truenorm.watch(model), which knows repeated forwards, or set the momentum of "
            f"{name} to 1 − √(1 − m)",
        )


def _is_twice(ratio: float) -> bool:
    """Two updates for each step; layers that were trained before, or accumulated gradients, have other ratios."""
    return 1.9 < ratio < 2.1


def _steps(optimizer: torch.optim.Optimizer | None) -> int:
    """Steps that the optimizer made, where it counts them (Adam does, SGD does not)."""
    if optimizer is None:
        return 0
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)

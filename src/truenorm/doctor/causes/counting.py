"""Layers that counted more batches than were trained on, or not as many as each other."""

from collections import Counter
from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import COUNTED
from truenorm.doctor.remedy import CountOnce


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
            evidence={"batches": common, "steps": steps, "ratio": common / steps},
            rank=COUNTED,
            layers=tuple(counted),
            remedy=CountOnce(),
        )
        return
    least = min(counted.values())
    twice = {name: count for name, count in counted.items() if _is_twice(count / least)}
    if twice and all(name in twice or count == least for name, count in counted.items()):
        name, count = next(iter(twice.items()))
        yield Finding(
            cause="updated twice",
            evidence={"batches": count, "others": least, "ratio": count / least, "data": bool(case.estimates)},
            rank=COUNTED,
            # Only data show whether it is not simply called twice.
            level="defect" if case.estimates else "cause",
            layers=tuple(twice),
            remedy=CountOnce(layer=name),
        )


def _is_twice(ratio: float) -> bool:
    """Two updates for each step; layers that were trained before, or accumulated gradients, have other ratios."""
    return 1.9 < ratio < 2.1


def _steps(optimizer: torch.optim.Optimizer | None) -> int:
    """Steps that the optimizer made, where it counts them (Adam does, SGD does not)."""
    if optimizer is None:
        return 0
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)

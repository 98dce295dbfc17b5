"""Dropout before batch norm: in training the layer sees more variance than in evaluation."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]  # the base of all of torch's

from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import ChangeTraining, RepairStatistics


def stochastic(model: nn.Module) -> dict[str, float]:
    """Dropout layers that are on in training, with their rates."""
    return {name: module.p for name, module in model.named_modules() if isinstance(module, _DropoutNd) and module.p > 0}


def find(case: Case) -> Iterable[Finding]:
    rates = stochastic(case.model)
    names = [n for n in case.joint if n in case.stored and not case.layers[n].damaged]
    if not rates or not names or case.sample is None:
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        awake = {name: module for name, module in case.model.named_modules() if name in rates}
        handles = [m.register_forward_pre_hook(_awake) for m in awake.values()]
        try:
            dropped = case.measure(case.sample)
        finally:
            for handle in handles:
                handle.remove()
    before, after = distance(case.stored, case.joint, names), distance(case.stored, dropped, names)
    explained = 1 - after / before if before > 0 else 0.0
    if explained > 0.2:
        yield Finding(
            cause="dropout",
            evidence={"dropouts": tuple(rates), "rates": tuple(rates.values())},
            explained=explained,
            remedy=RepairStatistics(next_time=ChangeTraining(what="dropout last")),
        )


def _awake(module: nn.Module, inputs: object) -> None:
    module.training = True

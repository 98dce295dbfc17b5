"""A program that was scripted or exported in training mode goes on training."""

from collections.abc import Iterable

import torch

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.rank import MODE
from truenorm.doctor.remedy import ChangeCode


def find(case: Case) -> Iterable[Finding]:
    if isinstance(case.model, torch.jit.ScriptModule) and any(layer.training for layer in case.layers.values()):
        yield _finding("scripted", ChangeCode(what="eval before scripting"))
    elif isinstance(case.model, torch.fx.GraphModule) and any(map(_trains, case.model.graph.nodes)):
        yield _finding("exported", ChangeCode(what="eval before export"))


def _finding(made: str, remedy: ChangeCode) -> Finding:
    return Finding(cause="program in training mode", evidence={"made": made}, rank=MODE, level="defect", remedy=remedy)


def _trains(node: torch.fx.Node) -> bool:
    """Is it a batch norm whose flag says training?"""
    name = str(node.target)
    if not node.op.startswith("call") or "batch_norm" not in name or "no_training" in name:
        return False
    return any(value is True for value in (*node.args[5:6], node.kwargs.get("training")))

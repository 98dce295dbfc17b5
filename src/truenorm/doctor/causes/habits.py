"""What is seen without data: code that works, and costs or surprises."""

from collections.abc import Iterable

import torch
from torch import nn

from truenorm.doctor.causes.momentum import LARGE
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some
from truenorm.model.gather import num_processes


def find(case: Case) -> Iterable[Finding]:
    yield from _dead_bias(case)
    yield from _in_a_program(case)
    yield from _last_batch(case)
    yield from _weight_decay(case)
    if any(layer.kind == "SyncBatchNorm" for layer in case.layers.values()) and num_processes() == 1:
        yield Finding(
            cause="synchronised alone",
            sentence="SyncBatchNorm runs in a single process: nothing is synchronised",
            share=0.02,
            level="note",
            remedy="code",
        )
    large = {name: layer.momentum for name, layer in case.layers.items() if layer.momentum and layer.momentum >= LARGE}
    if large and not case.estimates:
        value = next(iter(large.values()))
        yield Finding(
            cause="momentum",
            sentence=f"momentum is {value:g} in {some(large)}: torch's is the weight of the new batch (Keras's is "
            f"1 − it); statistics of the last {(2 - value) / value:.2g} batches",
            share=0.5,
            level="defect",
            layers=tuple(large),
            remedy="code",
            advice="build the network with momentum=0.1",
        )
    if case.estimates:
        return
    for name, layer in case.layers.items():
        if layer.momentum == 0 and layer.untouched:
            yield Finding(
                cause="momentum 0",
                sentence=f"momentum is 0 in {name}: its statistics never move from 0 and 1",
                share=0.9,
                level="defect",
                layers=(name,),
                remedy="code",
                advice="build the network with momentum=0.1",
            )
            return


def _dead_bias(case: Case) -> Iterable[Finding]:
    before: nn.Module | None = None
    found: list[str] = []
    for name, module in case.model.named_modules():
        if name in case.layers and before is not None and getattr(before, "bias", None) is not None:
            found.append(name)
        if next(module.children(), None) is None:
            holds = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]  # the base
            before = module if holds else None
    if found:
        yield Finding(
            cause="bias before batch norm",
            sentence=f"a bias stands right before {some(found)}: batch norm subtracts it again; bias=False saves it",
            share=0.01,
            level="note",
            layers=tuple(found),
            remedy="code",
        )


def _in_a_program(case: Case) -> Iterable[Finding]:
    """What was scripted or exported in training mode goes on training."""
    scripted = isinstance(case.model, torch.jit.ScriptModule) and any(one.training for one in case.layers.values())
    exported = isinstance(case.model, torch.fx.GraphModule) and any(map(_trains, case.model.graph.nodes))
    if scripted or exported:
        what = "scripted" if scripted else "exported"
        yield Finding(
            cause="program in training mode",
            sentence=f"the program was {what} in training mode: its batch norm normalises by the batch it is given"
            + (" until eval() is called" if scripted else ", and eval() does not change that"),
            share=0.95,
            level="defect",
            remedy="code",
            advice=f"call model.eval() before it is {what}",
        )


def _trains(node: torch.fx.Node) -> bool:
    """Is it a batch norm whose flag says training?"""
    name = str(node.target)
    if not node.op.startswith("call") or "batch_norm" not in name or "no_training" in name:
        return False
    return any(value is True for value in (*node.args[5:6], node.kwargs.get("training")))


def _last_batch(case: Case) -> Iterable[Finding]:
    if len(case.sizes) > 1 and case.sizes[-1] == 1 < min(case.sizes[:-1]):
        yield Finding(
            cause="last batch of one",
            sentence=f"the last of {len(case.sizes)} batches holds one sample: training on it fails for vectors and is "
            "noise for images; use drop_last=True",
            share=0.01,
            level="note",
            remedy="code",
        )


def _weight_decay(case: Case) -> Iterable[Finding]:
    if case.optimizer is None:
        return
    modules = dict(case.model.named_modules())
    affine = {id(v) for name in case.layers if name in modules for v in modules[name].parameters(recurse=False)}
    decays = {
        group["weight_decay"]
        for group in case.optimizer.param_groups
        if group.get("weight_decay") and any(id(value) in affine for value in group["params"])
    }
    if decays:
        yield Finding(
            cause="weight decay",
            sentence=f"γ and β are decayed (weight_decay {max(decays):g}): usual, and rarely wanted; put them into a "
            "parameter group without",
            share=0.01,
            level="note",
            remedy="code",
        )

"""Code that works, and costs or surprises: notes that need no data."""

from collections.abc import Iterable

from torch import nn

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import ChangeCode
from truenorm.model.gather import num_processes


def find(case: Case) -> Iterable[Finding]:
    yield from _biases(case)
    yield from _last_batch(case)
    yield from _weight_decay(case)
    if any(layer.kind == "SyncBatchNorm" for layer in case.layers.values()) and num_processes() == 1:
        yield Finding(cause="synchronised alone", level="note", remedy=ChangeCode(what="no synchronisation"))


def _biases(case: Case) -> Iterable[Finding]:
    before: nn.Module | None = None
    biased: list[str] = []
    for name, module in case.model.named_modules():
        if name in case.layers and before is not None and getattr(before, "bias", None) is not None:
            biased.append(name)
        if next(module.children(), None) is None:
            holds = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]  # the base
            before = module if holds else None
    if biased:
        yield Finding(
            cause="bias before batch norm", level="note", layers=tuple(biased), remedy=ChangeCode(what="no bias")
        )


def _last_batch(case: Case) -> Iterable[Finding]:
    if len(case.sizes) > 1 and case.sizes[-1] == 1 < min(case.sizes[:-1]):
        yield Finding(
            cause="last batch of one",
            evidence={"batches": len(case.sizes)},
            level="note",
            remedy=ChangeCode(what="drop the last batch"),
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
            evidence={"weight_decay": float(max(decays))},
            level="note",
            remedy=ChangeCode(what="no decay"),
        )

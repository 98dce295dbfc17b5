"""Frozen parameters whose statistics moved on; layers frozen by eval(), which train() undoes."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some


def find(case: Case) -> Iterable[Finding]:
    tracked = {name: layer for name, layer in case.layers.items() if layer.stored is not None and not layer.frozen}
    still = [name for name, layer in tracked.items() if layer.learns is False]
    trains = any(value.requires_grad for value in case.model.parameters())
    moving = [name for name in still if (tracked[name].batches or 0) > 0 and tracked[name].momentum != 0]
    if moving and trains:
        yield Finding(
            cause="frozen parameters",
            sentence=f"γ and β of {some(moving)} do not learn, the rest does, and the running statistics are free: "
            "every forward in train() moves them away from the weights they belong to",
            share=0.75,
            level="cause",
            layers=tuple(moving),
            advice=f"truenorm.freeze(model, {_pattern(case, moving)!r}) before training: it survives train()",
        )


def asleep(case: Case) -> Iterable[Finding]:
    """Layers in eval() while the model trains."""
    found = [
        name
        for name, layer in case.layers.items()
        if layer.stored is not None and not layer.frozen and not layer.training and case.model.training
    ]
    if found:
        yield Finding(
            cause="frozen by eval()",
            sentence=f"{some(found)} {'is' if len(found) == 1 else 'are'} in eval() while the model trains: the next "
            "model.train() wakes them",
            share=0.03,
            level="note",
            layers=tuple(found),
            remedy="code",
            advice=f"truenorm.freeze(model, {_pattern(case, found)!r})",
        )


def _pattern(case: Case, names: list[str]) -> str | list[str]:
    """A shell pattern that fits these layers and no others; else their names."""
    if len(names) == 1:
        return names[0]
    stem: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        stem.append(parts[0])
    pattern = ".".join([*stem, "*"])
    fits = [name for name in case.layers if fnmatchcase(name, pattern)]
    return pattern if fits == [name for name in case.layers if name in names] else names

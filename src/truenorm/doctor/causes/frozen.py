"""Frozen parameters whose statistics moved on; layers frozen by eval(), which train() undoes."""

from collections.abc import Iterable

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
            advice=f"truenorm.freeze(model, {_pattern(moving)!r}) before training: it survives train()",
        )
    asleep = [name for name, layer in tracked.items() if not layer.training]
    if case.model.training and asleep:
        yield Finding(
            cause="frozen by eval()",
            sentence=f"{some(asleep)} {'is' if len(asleep) == 1 else 'are'} in eval() while the model trains: the next "
            "model.train() wakes them",
            share=0.03,
            level="note",
            layers=tuple(asleep),
            remedy="code",
            advice=f"truenorm.freeze(model, {_pattern(asleep)!r})",
        )


def _pattern(names: list[str]) -> str:
    """A shell pattern for these names, where they have a beginning in common."""
    start = names[0]
    for name in names[1:]:
        while not name.startswith(start):
            start = start[:-1]
    stem = start if start in names and len(names) == 1 else start.rpartition(".")[0]
    return stem if len(names) == 1 else f"{stem}.*" if stem else "*"

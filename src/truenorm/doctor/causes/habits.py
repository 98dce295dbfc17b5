"""Code that works, and costs or surprises."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import ChangeCode
from truenorm.model.evaluate import evaluating, run
from truenorm.model.gather import num_processes
from truenorm.model.layers import batch_norms, unwrap


def find(case: Case) -> Iterable[Finding]:
    yield from _biases(case)
    yield from _last_batch(case)
    yield from _weight_decay(case)
    if any(layer.kind == "SyncBatchNorm" for layer in case.layers.values()) and num_processes() == 1:
        yield Finding(cause="synchronised alone", level="note", remedy=ChangeCode(what="no synchronisation"))


def _biases(case: Case) -> Iterable[Finding]:
    """With data: layers whose input is the output of a layer with a bias; without, nothing says what feeds what."""
    if case.sample is None or not case.estimates:
        return
    outputs: dict[int, Tensor] = {}  # kept, so that no other tensor takes the number of one
    biased: dict[str, None] = {}

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[id(output)] = output

    def compare(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def look(module: nn.Module, inputs: tuple[object, ...]) -> None:
            if inputs and id(inputs[0]) in outputs:
                biased[name] = None

        return look

    handles = [
        module.register_forward_hook(keep)
        for module in case.model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]  # the base
        and module.bias is not None
    ]
    layers = batch_norms(case.model, tracking=False)
    handles += [layer.register_forward_pre_hook(compare(name)) for name, layer in layers.items()]
    try:
        with evaluating(case.model):
            run(case.model, case.sample.batched(min(2, len(case.sample))).batches[0], case.forward)
    finally:
        for handle in handles:
            handle.remove()
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
    modules = dict(unwrap(case.model).named_modules())
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

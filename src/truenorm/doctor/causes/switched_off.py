"""`track_running_stats=False`: taken for frozen, it is the opposite."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, some


def find(case: Case) -> Iterable[Finding]:
    off = [name for name, layer in case.layers.items() if layer.switched_off]
    without = [name for name, layer in case.layers.items() if layer.stored is None]
    if off:
        yield Finding(
            cause="track_running_stats",
            sentence=f"track_running_stats is False in {some(off)}, which store statistics: in train() they normalise "
            "by the batch and never update, in eval() by what was stored before; that is not frozen",
            share=0.95,
            level="defect",
            layers=tuple(off),
            remedy="code",
            advice="set track_running_stats=True again, and truenorm.freeze(model) if they are to stay as they are",
        )
    if without:
        yield Finding(
            cause="track_running_stats",
            sentence=f"{some(without)} keep no statistics (track_running_stats=False): in eval() too each output "
            "depends on the other samples of its batch, and a batch of one fails",
            share=0.5,
            level="defect",
            layers=tuple(without),
            remedy="code",
            advice="build these layers with track_running_stats=True, load the weights, and repair",
        )

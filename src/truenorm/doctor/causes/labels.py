"""Classes in another order than the network's outputs: it scores far below what it knows."""

from collections.abc import Iterable

import torch
from torch import Tensor

from truenorm.data.sample import Sample
from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding, Value
from truenorm.doctor.remedy import ReorderClasses
from truenorm.doctor.score import BY_BATCH
from truenorm.doctor.target import ACCURACY, logits_in
from truenorm.model.evaluate import evaluating, run
from truenorm.stats.statistics import Statistics

_GAIN = 0.3
"""What an order of the classes must gain in accuracy on samples that it was not chosen on."""

_LEAST_SAMPLES = 5
"""Samples of each class that an order is chosen on, in the mean."""


def find(case: Case) -> Iterable[Finding]:
    """An order is chosen on the samples that were measured, and scored on the others."""
    scores = {name: score.mean(ACCURACY) for name, score in case.scores.items() if ACCURACY in score.values}
    if not scores or case.sample is None or case.held_out is None or case.score is not None:
        return
    name = max((name for name in scores if name != BY_BATCH), key=lambda name: scores[name])
    statistics = case.estimates.get(name, Statistics({}))
    chosen = _predicted(case, case.sample, statistics)
    judged = _predicted(case, case.held_out, statistics)
    if chosen is None or judged is None:
        return
    classes = chosen[2]
    if classes < 2 or len(chosen[0]) < _LEAST_SAMPLES * classes or scores[name] > 0.5 / classes:
        return
    order = _order(*chosen)
    predicted, labels, _ = judged
    after = float((order[predicted] == labels).double().mean())
    if after - scores[name] < _GAIN:
        return
    shifts = (order - torch.arange(classes)) % classes
    evidence: dict[str, Value] = {
        "before": scores[name],
        "after": after,
        "chance": 1 / classes,
        "order": tuple(map(int, order[:10])),
        "shift": int(shifts[0]) if bool((shifts == shifts[0]).all()) else None,
    }
    yield Finding(cause="order of classes", evidence=evidence, explained=1.0, remedy=ReorderClasses())


def _order(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each output the class that it is most often, each class once (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment  # a quarter of a second, which only this cause needs

    counts = torch.zeros(classes, classes)
    counts.index_put_((predicted, labels), torch.ones(len(labels)), accumulate=True)
    _, order = linear_sum_assignment(-counts.numpy())
    return torch.as_tensor(order)


def _predicted(case: Case, sample: Sample, statistics: Statistics) -> tuple[Tensor, Tensor, int] | None:
    """Predictions, labels, and the number of classes."""
    predicted: list[Tensor] = []
    labels: list[Tensor] = []
    classes = 0
    with evaluating(case.model, statistics):
        for batch in sample.batches:
            logits = logits_in(run(case.model, batch, case.forward))
            if logits is None or logits.ndim != 2 or batch.classes is None or len(logits) != len(batch.classes):
                return None
            predicted.append(logits.argmax(1).cpu())
            labels.append(batch.classes.long().cpu())
            classes = logits.shape[1]
    joined = torch.cat(labels)
    if not len(joined) or int(joined.max()) >= classes or int(joined.min()) < 0:
        return None
    return torch.cat(predicted), joined, classes

"""Classes in another order than the network's outputs: it scores far below what it knows."""

from dataclasses import replace

import torch
from torch import Tensor

from truenorm.data.sample import Sample
from truenorm.doctor.examine import Case, with_scores
from truenorm.doctor.finding import Finding, Value
from truenorm.doctor.rank import BUFFERS
from truenorm.doctor.remedy import ReorderClasses
from truenorm.doctor.score import AS_IS, BY_BATCH
from truenorm.doctor.target import ACCURACY, logits_in
from truenorm.model.evaluate import evaluating, run
from truenorm.stats.statistics import Statistics

_GAIN = 0.3
"""What an order of the classes must gain in accuracy on samples that it was not chosen on."""

_CHANCES = 0.5
"""Of the accuracy of chance: below this an order is looked for."""

_SEEN = 2
"""Samples from which on a class occurs."""

_LEAST_SAMPLES = 5
"""Samples of each class that an order is chosen on, in the mean."""


def reordered(case: Case) -> tuple[Case, Finding | None]:
    """The case with the labels in the order of the outputs, and the finding, where they are in another one.

    An order is chosen on the samples that were measured, and scored on the others.
    """
    scores = {name: score.mean(ACCURACY) for name, score in case.scores.items() if ACCURACY in score.values}
    if not scores or case.sample is None or case.held_out is None or case.score is not None:
        return case, None
    name = max((name for name in scores if name != BY_BATCH), key=lambda name: scores[name])
    if scores[name] > _CHANCES / 2:
        return case, None
    classes = _classes(case)
    if classes < 2 or len(case.sample) < _LEAST_SAMPLES * classes or scores[name] > _CHANCES / classes:
        return case, None
    chosen = _predicted(case, case.sample, case.estimates.get(name, Statistics({})))
    if chosen is None:
        return case, None
    order = _order(*chosen, classes)
    sample, held_out = (_with_order(part, order) for part in (case.sample, case.held_out))
    if sample is None or held_out is None:
        return case, None
    again = with_scores(replace(case, sample=sample, held_out=held_out))
    before, after = case.scores[AS_IS].mean(ACCURACY), again.scores[name].mean(ACCURACY)
    if after - before < _GAIN:
        return case, None
    # Outputs whose class does not occur are in any order.
    present = torch.bincount(chosen[1], minlength=classes)[order] >= _SEEN
    shifts = ((order - torch.arange(classes)) % classes)[present]
    evidence: dict[str, Value] = {
        "before": before,
        "after": again.scores[AS_IS].mean(ACCURACY),
        "chance": 1 / classes,
        "order": tuple(map(int, order[:10])),
        "classes": classes,
        "shift": int(shifts[0]) if len(shifts) and bool((shifts == shifts[0]).all()) else None,
    }
    return again, Finding(cause="order of classes", evidence=evidence, rank=BUFFERS, remedy=ReorderClasses())


def _with_order(sample: Sample, order: Tensor) -> Sample | None:
    """The sample with its classes numbered as the outputs are; None where it cannot be batched anew."""
    joined = sample.joined
    if joined is None or joined.classes is None:
        return None
    labels, place = joined.classes, order.argsort().to(joined.classes.device)
    new = place[labels.long()].to(labels.dtype)
    return replace(sample, joined=joined.map(lambda tensor: new if tensor is labels else tensor)).batched(
        sample.batch_size
    )


def _classes(case: Case) -> int:
    """Outputs of the network; 0 where they are no classes."""
    assert case.held_out is not None
    with evaluating(case.model):
        logits = logits_in(run(case.model, case.held_out.batches[0], case.forward))
    return logits.shape[1] if logits is not None and logits.ndim == 2 else 0


def _order(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each output the class that it is most often, each class once (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment  # a quarter of a second, which only this cause needs

    counts = torch.zeros(classes, classes)
    counts.index_put_((predicted, labels), torch.ones(len(labels)), accumulate=True)
    _, order = linear_sum_assignment(-counts.numpy())
    return torch.as_tensor(order)


def _predicted(case: Case, sample: Sample, statistics: Statistics) -> tuple[Tensor, Tensor] | None:
    """Predictions and labels."""
    predicted: list[Tensor] = []
    with evaluating(case.model, statistics):
        for batch in sample.batches:
            logits = logits_in(run(case.model, batch, case.forward))
            if logits is None or logits.ndim != 2 or len(logits) != batch.size:
                return None
            predicted.append(logits.argmax(1).cpu())
    labels = sample.classes
    return None if labels is None else (torch.cat(predicted), labels.long().cpu())

"""`truenorm.diagnose`: examine, rank the causes, and choose what to do."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from truenorm.data.sample import take_sample
from truenorm.doctor.causes import CERTAIN, LEFT_OVER, MEASURED, SIGNS, STATIC, Find
from truenorm.doctor.causes.labels import reordered
from truenorm.doctor.causes.lag import alone
from truenorm.doctor.causes.training_mode import awake, dropouts
from truenorm.doctor.decision import decide, ranked, steps
from truenorm.doctor.diagnosis import Diagnosis, LayerState
from truenorm.doctor.examine import Case, effects, examine, harm, own_share
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Looked, Outcome, RuledOut
from truenorm.doctor.phrases import some
from truenorm.doctor.rank import EXPLAINS, NOTHING_FITS
from truenorm.doctor.remedy import Nothing, Step
from truenorm.doctor.score import AS_IS, Score, scored
from truenorm.doctor.size import fitting
from truenorm.errors import InvalidInput
from truenorm.model.evaluate import Forward, seeded
from truenorm.model.layers import has_batch_norm, is_program, like_batch_norm, refuse_without_numbers
from truenorm.model.mask import Mask
from truenorm.stats.moments import Moments

_TRIED = 16
"""Layers that are repaired one by one, to see what each does to the output."""

_MOST = 1e6
"""σ; a variance of 0 is off by more than any number."""

_SETTLES = 0.95
"""Share of the shift from which on no other cause is looked for."""

_ENOUGH = 100
"""Samples from which on a layer may be called right up to noise though one batch was measured."""

SHOWS = 2.0
"""How many times its noise floor a layer must be off to be called off."""


def diagnose(
    model: nn.Module,
    data: Iterable[Any] | None = None,
    *,
    score: Score | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    forward: Forward | None = None,
    mask: Mask | None = None,
    limit: int | None = None,
) -> Diagnosis:
    """Why a network is good in train() and bad in eval(), and what repairing its statistics would give.

    One evaluation pass shows what arrives at each batch-norm layer; statistics are right if and only if they
    equal it. What is off is split into a layer's own error and what it inherits from layers below, causes
    are ranked by how much of the shift they explain, and what other statistics would give is measured on
    samples that they were not taken from. Random numbers come from a fixed seed, so that the same call says the same.
    Nothing is changed: state, modes, hooks and random states are as before.

    Args:
        model: the network, on its device.
        data: an iterable of batches, held-out ones rather; the first `limit` samples are read, once. None: only
            what can be seen without.
        score: `score(output, batch)` gives a number, or one for each sample; more is better (give a loss its
            minus). None: what the batches hold as labels is scored, and what it is taken for is said: a class for
            each sample or position, any number of labels, or numbers of the output's shape.
        optimizer: what trains the model, for what only it can tell.
        forward: how to run a batch, `forward(model, batch)`, where `model(images)` is not it.
        mask: as for `measure`; the same positions count in everything that is measured. The score is of the output
            as it is: leave padding out of that by `score`, or by labels that mean "no class" there.
        limit: how many samples to look at, half to measure and half to score. None: up to 2,000, fewer where one
            timed forward says that they would take more than two minutes; the number is in `looked.limit`.

    Returns:
        layers, causes, gains and a recommendation; `print` it.

    Raises:
        InvalidInput: no batches, values that are not finite, a score that gives no number; no batch norm that is
            known, and modules that may be one; a mask that is not boolean, or has no valid position.
        NotMeasurable: no batch-norm layer is reached by the data, or no mask fits a layer's input.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.001), nn.Linear(8, 2))
        >>> batches = [(torch.randn(32, 4) + 5, torch.randint(0, 2, (32,))) for _ in range(8)]
        >>> for images, _ in batches:
        ...     _ = net.train()(images)
        >>> diagnose(net, batches).cause
        'initial values'
    """
    return diagnosed(model, data, score=score, optimizer=optimizer, forward=forward, mask=mask, limit=limit)


def diagnosed(
    model: nn.Module,
    data: Iterable[Any] | None,
    *,
    score: Score | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    forward: Forward | None = None,
    mask: Mask | None = None,
    limit: int | None = None,
    started: Callable[[int], None] = lambda samples: None,
) -> Diagnosis:
    """`diagnose`, for the command line.

    Args:
        started: called once with the number of samples that are looked at, when they have been read.
    """
    unknown = tuple(like_batch_norm(model))
    if not has_batch_norm(model) and (data is None or is_program(model)):
        return _without_batch_norm(model, unknown)
    if data is not None:
        refuse_without_numbers(model)
    with seeded(model, data):
        sample = None
        # Programs have no modes to choose and no hooks: they are looked at without running them.
        if data is not None and not is_program(model):
            size, batches = fitting(model, data, forward=forward, limit=limit)
            sample = take_sample(batches, limit=size)
            started(len(sample))
            limit = size
        case = examine(model, sample, score=score, forward=forward, mask=mask, optimizer=optimizer)
        unknown = tuple(dict.fromkeys(name for name in (*unknown, *case.unknown) if name not in case.constant))
        if case.entangled and not case.by_batch and not any(layer.stored is None for layer in case.layers.values()):
            unknown = (*unknown, type(model).__name__)  # something in it takes its batch
        if not case.layers and not case.by_batch:
            return _without_batch_norm(model, unknown)
        return _concluded(case, limit, unknown)


def _without_batch_norm(model: nn.Module, unknown: tuple[str, ...]) -> Diagnosis:
    if unknown:
        raise InvalidInput(
            f"{type(model).__name__} has no batch norm that truenorm knows; {some(unknown)} may be one of another "
            "make, by the names of its buffers or by what it does: with its statistics in one pair of buffers, "
            "running_mean and running_var, it can be looked at"
        )
    return Diagnosis(
        outcome=Outcome(kind="no batch norm"),
        layers=(),
        findings=(),
        gains={},
        scores={},
        best=None,
        ruled_out=(),
        steps=(Step(remedy=Nothing()),),
        looked=None,
    )


def _concluded(case: Case, limit: int | None, unknown: tuple[str, ...]) -> Diagnosis:
    case, permuted = reordered(case)
    layers = _ranked(case)
    off = [layer for layer in layers if _shows(layer)]
    findings = [*([] if permuted is None else [permuted]), *_findings(case, measured=bool(off) or _damaged(case))]
    causes = ranked([finding for finding in findings if finding.level != "note"])
    notes = [finding for finding in findings if finding.level == "note"]
    outcome = decide(case, off, causes, unknown)
    if not causes and outcome.kind == "repairable":
        one = alone(case)
        named = () if one is None else (one,)
        causes = [Finding(cause="unexplained", evidence={"alone": bool(named)}, rank=NOTHING_FITS, layers=named)]
    gains = case.gains()
    return Diagnosis(
        outcome=outcome,
        layers=tuple(layers),
        findings=(*causes, *notes),
        gains=gains,
        scores={
            name: {metric: scored.mean(metric) for metric in scored.values}
            for name, scored in {**case.scores, **case.unfrozen}.items()
        },
        best=None if outcome.healthy else case.best_unfrozen or case.best,
        ruled_out=_ruled_out(case) if outcome.kind in ("harmless", "sound") and gains else (),
        steps=steps(case, outcome, causes),
        looked=_looked(case, limit),
    )


def _findings(case: Case, *, measured: bool) -> list[Finding]:
    findings = _found(STATIC, case)
    if not case.estimates:
        return findings
    findings += _found(CERTAIN, case)
    if not measured:
        return findings
    for find in MEASURED:
        if any(finding.level != "note" and (finding.explained or 0.0) > _SETTLES for finding in findings):
            break
        findings += find(case)
    findings += _found(SIGNS, case)
    harm = AS_IS not in case.scores or case.best is not None
    if harm and all(finding.place < EXPLAINS for finding in findings if finding.level != "note"):
        findings += _found(LEFT_OVER, case)
    return findings


def _found(causes: Iterable[Find], case: Case) -> list[Finding]:
    return [finding for find in causes for finding in find(case)]


def _damaged(case: Case) -> bool:
    return bool(case.estimates) and case.arriving is None


def _ranked(case: Case) -> list[LayerState]:
    off = case.shift()
    if off is None or case.arriving is None:
        return []
    states: list[LayerState] = []
    for layer in off.layers:
        name, shift = layer.layer, min(layer.shift, _MOST)
        if name not in case.exact:
            continue
        stored, exact = case.stored[name], case.exact[name]
        own = shift * own_share(stored, case.arriving[name], exact)
        states.append(
            LayerState(
                layer=name,
                off=shift,
                own=own,
                inherited=shift - own,
                floor=layer.noise_floor or _least_noise(case, case.arriving[name]),
                harm=harm(case.layers[name], stored, exact),
            )
        )
    shown = sorted((state for state in states if _shows(state)), key=lambda state: -state.harm)
    moved = effects(case, [state.layer for state in shown[:_TRIED]]) if shown else {}
    tried = [replace(state, effect=moved[state.layer]) for state in shown if state.layer in moved]
    tried.sort(key=lambda state: -(state.effect or 0.0))
    # Below the noise floor nothing is ranked: those layers follow in their own order.
    rest = [state for state in states if not _shows(state)]
    return [*tried, *(state for state in shown if state.layer not in moved), *rest]


def _least_noise(case: Case, moments: Moments) -> float | None:
    """Where one batch does not tell how alike its values are: the noise were every sample one value, √(2/n).

    None for few samples, of which nothing is concluded.
    """
    samples = 0 if case.sample is None else len(case.sample)
    n = min(samples, moments.count or samples)
    return math.sqrt(2 / n) if n >= _ENOUGH else None


def _shows(state: LayerState) -> bool:
    return state.off > max(SHOWS * (state.floor or 0.0), 0.02)


def _ruled_out(case: Case) -> tuple[RuledOut, ...]:
    before = case.scores[AS_IS]
    gains = list(case.gains().values())
    most = tuple((metric, max(gain[metric].mean for gain in gains)) for metric in before.values)
    parts = [RuledOut(what="statistics", changes=most)]
    if dropouts(case.model) and case.held_out is not None and (network := case.copy()) is not None:
        noisy = scored(network, case.held_out, score=case.score, forward=case.forward, prepare=awake)
        if noisy is not None:
            changes = tuple((metric, noisy.mean(metric) - before.mean(metric)) for metric in before.values)
            parts.append(RuledOut(what="dropout", changes=changes))
    return tuple(parts)


def _looked(case: Case, limit: int | None) -> Looked | None:
    if case.sample is None:
        return None
    if case.held_out is None:
        return Looked(limit=limit)
    return Looked(
        limit=limit,
        kind=case.scores[AS_IS].kind if AS_IS in case.scores else None,
        measured=len(case.sample),
        scored=len(case.held_out) if case.scores else 0,
        scores=len(case.scores[AS_IS]) if AS_IS in case.scores and case.score is not None else 0,
        same=case.held_out is case.sample,
        batch_size=case.sample.batch_size,
        unreached=case.unreached,
        unfit=case.unfit,
        partly=case.partly,
        frozen=case.left,
        repeated=case.repeated,
    )

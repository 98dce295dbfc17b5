"""`truenorm.diagnose`: examine, rank the causes, and choose what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from truenorm.data.sample import take_sample
from truenorm.doctor.causes import CERTAIN, LEFT_OVER, MEASURED, STATIC, Find
from truenorm.doctor.causes.dropout import stochastic
from truenorm.doctor.diagnosis import Diagnosis, LayerState
from truenorm.doctor.examine import ESTIMATORS, Case, effects, examine, harm, own_share
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Looked, Outcome, OutcomeKind, RuledOut
from truenorm.doctor.rank import EXPLAINS
from truenorm.doctor.remedy import DiagnoseAgain, InCode, Nothing, Preprocess, Remedy, RepairStatistics, Step
from truenorm.doctor.score import ACCURACY, AS_IS, OWN, Score, Scored, is_gain
from truenorm.model.evaluate import Forward, random_states_kept
from truenorm.model.layers import is_program

LIMIT = 2000
"""Samples that are looked at."""

_TRIED = 16
"""Layers that are mended one by one, to see what each does to the output."""

_MOST = 1e6
"""σ; a variance of 0 is off by more than any number."""

FAR = 0.5
"""σ from which on a layer is an alarm where nothing is scored."""

SHOWS = 2.0
"""How many times its noise floor a layer must be off to be called off."""


def diagnose(
    model: nn.Module,
    data: Iterable[Any] | None = None,
    *,
    score: Score | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    forward: Forward | None = None,
    limit: int = LIMIT,
) -> Diagnosis:
    """Why a network is good in train() and bad in eval(), and what mending its statistics would give.

    One evaluation pass shows what arrives at each batch-norm layer; statistics are right if and only if they
    equal it. What is off is split into a layer's own error and what it inherits from layers below, causes
    are ranked by how much of the shift they explain, and what other statistics would give is measured on
    samples that they were not taken from. Nothing is changed: state, modes, hooks and random numbers are as
    before.

    Args:
        model: the network, on its device.
        data: an iterable of batches, held-out ones rather; the first `limit` samples are read, once. None: only
            what can be seen without.
        score: `score(output, batch)` gives a number, or one for each sample; more is better (give a loss its
            minus). None: accuracy and log likelihood, where the batches hold classes.
        optimizer: what trains the model, for what only it can tell.
        forward: how to run a batch, `forward(model, batch)`, where `model(images)` is not it.
        limit: how many samples to look at, half to measure and half to score.

    Returns:
        layers, causes, gains and a recommendation; `print` it.

    Raises:
        InvalidInput: no batch norm, no batches, values that are not finite, a score that gives no number.
        NotMeasurable: no batch-norm layer is reached by the data.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.001), nn.Linear(8, 2))
        >>> batches = [(torch.randn(32, 4) + 5, torch.randint(0, 2, (32,))) for _ in range(8)]
        >>> for images, _ in batches:
        ...     _ = net.train()(images)
        >>> diagnose(net, batches).cause
        'initial values'
    """
    with random_states_kept(model):
        # Programs have no modes to choose and no hooks: they are looked at without running them.
        sample = None if data is None or is_program(model) else take_sample(data, limit=limit)
        case = examine(model, sample, score=score, forward=forward, optimizer=optimizer)
        return _concluded(case)


def _concluded(case: Case) -> Diagnosis:
    gains = case.gains()
    best = best_estimate(case.scores)
    layers = _ranked(case)
    off = [layer for layer in layers if _shows(layer)]
    findings = _findings(case, measured=bool(off) or _damaged(case))
    causes = ranked(finding for finding in findings if finding.level != "note")
    notes = [finding for finding in findings if finding.level == "note"]
    # Another preprocessing is no fault of the statistics; it is named only if undoing it was shown to help.
    data_at_fault = bool(causes) and isinstance(causes[0].remedy, Preprocess)
    # What mending would give is not always known: then far off is bad enough.
    far = not gains and any(layer.off > FAR for layer in off)
    defect = any(finding.level == "defect" for finding in causes)
    healthy = not (defect or (off and best) or data_at_fault or far)
    return Diagnosis(
        healthy=healthy,
        outcome=_outcome(case, healthy, len(off), best, bool(causes)),
        layers=tuple(layers),
        findings=(*causes, *notes),
        gains=gains,
        scores={
            name: {metric: scored.mean(metric) for metric in scored.values} for name, scored in case.scores.items()
        },
        best=best,
        ruled_out=_ruled_out(case) if healthy and gains else (),
        steps=_steps(case, healthy, best, causes[0].remedy if causes else None),
        looked=_looked(case),
    )


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The likeliest first; if it explains the shift, other causes are dropped, and only defects follow."""
    ordered = sorted(findings, key=lambda finding: (-finding.place, finding.level != "defect"))
    if ordered and ordered[0].place > EXPLAINS:
        ordered[1:] = [finding for finding in ordered[1:] if finding.level == "defect"]
    return ordered


def best_estimate(scores: Mapping[str, Scored]) -> str | None:
    """The first estimate that gains beyond noise, unless a later one gains beyond noise over it; None: as it is."""
    best = None
    for name in ESTIMATORS:
        if name in scores and is_gain(scores[name].gain(scores[best or AS_IS])):
            best = name
    return best


def _findings(case: Case, *, measured: bool) -> list[Finding]:
    findings = _found(STATIC, case)
    if case.estimates and measured:
        findings += _found(MEASURED, case)
        if all(finding.place < EXPLAINS for finding in findings if finding.level != "note"):
            findings += _found(LEFT_OVER, case)
    elif case.estimates:
        findings += _found(CERTAIN, case)
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
                floor=layer.noise_floor,
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


def _shows(state: LayerState) -> bool:
    return state.off > max(SHOWS * (state.floor or 0.0), 0.02)


def _outcome(case: Case, healthy: bool, off: int, best: str | None, cause: bool) -> Outcome:
    def outcome(kind: OutcomeKind, improved: tuple[Improvement, ...] = ()) -> Outcome:
        return Outcome(kind=kind, data=case.sample is not None, off=off, layers=len(case.stored), improved=improved)

    if not case.estimates:
        return outcome("no defect" if healthy else "defect")
    gains = case.gains()
    if not gains:
        return outcome("damaged" if _damaged(case) else "not scored")
    if best is not None:
        before, after = case.scores[AS_IS], case.scores[best]
        metrics = [metric for metric, gain in gains[best].items() if (gain.low or 0.0) > 0]
        return outcome(
            "repairable", tuple(Improvement(metric=m, before=before.mean(m), after=after.mean(m)) for m in metrics)
        )
    if not healthy:
        return outcome("not repairable" if cause else "unexplained")
    return outcome("harmless" if off else "sound")


def _ruled_out(case: Case) -> tuple[RuledOut, ...]:
    before = case.scores[AS_IS]
    metric = ACCURACY if ACCURACY in before.values else OWN
    most = max((gain[metric].mean for gain in case.gains().values()), default=0.0)
    parts = [RuledOut(what="statistics", metric=metric, change=most)]
    rates = stochastic(case.model)
    if rates and case.held_out is not None:

        def awake(model: nn.Module) -> None:
            for name, module in model.named_modules():
                if name in rates:
                    module.train()

        with torch.random.fork_rng():
            torch.manual_seed(0)
            noisy = case.judged(case.held_out, awake)
        if noisy is not None:
            parts.append(RuledOut(what="dropout", metric=metric, change=noisy.mean(metric) - before.mean(metric)))
    return (*parts, RuledOut(what="training data"))


def _steps(case: Case, healthy: bool, best: str | None, remedy: Remedy | None) -> tuple[Step, ...]:
    """What to do now, and what in the next training, by the remedy of the likeliest cause."""
    if not case.estimates:
        return (Step(remedy=remedy or DiagnoseAgain()),)
    if isinstance(remedy, Preprocess):
        return (Step(remedy=remedy),)
    if isinstance(remedy, InCode):
        return (Step(remedy=remedy), *([Step(remedy=RepairStatistics(), when="then")] if best is not None else []))
    next_time = remedy.next_time if isinstance(remedy, RepairStatistics) else remedy
    if best is not None:
        later = () if next_time is None else (Step(remedy=next_time, when="later"),)
        return (Step(remedy=RepairStatistics()), *later)
    scored = AS_IS in case.scores
    if remedy is not None and not healthy:
        otherwise = Nothing(none_better=True) if scored else RepairStatistics(needs_score=True)
        return (Step(remedy=next_time or otherwise),)
    return (Step(remedy=Nothing() if scored else DiagnoseAgain(needs_score=True)),)


def _looked(case: Case) -> Looked | None:
    if case.sample is None:
        return None
    if case.held_out is None:
        return Looked()
    reached = {*case.joint, *case.partly}
    return Looked(
        measured=len(case.sample),
        scored=len(case.held_out) if case.scores else 0,
        same=case.held_out is case.sample,
        batch_size=case.sample.batch_size,
        unreached=tuple(n for n, layer in case.layers.items() if n not in reached and layer.stored is not None),
        partly=case.partly,
        frozen=case.left,
        repeated=case.repeated,
    )

"""`truenorm.diagnose`: look, measure, weigh the causes, and say one thing to do."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from truenorm.data.sample import take_sample
from truenorm.doctor.causes import LEFT_OVER, MEASURED, STATIC
from truenorm.doctor.causes.dropout import stochastic
from truenorm.doctor.diagnosis import Diagnosis, LayerState
from truenorm.doctor.examine import ESTIMATORS, Case, effects, examine, harm, own_share
from truenorm.doctor.finding import Finding, some
from truenorm.doctor.score import ACCURACY, OWN, Score, Scored, is_gain
from truenorm.doctor.step import Step, calling
from truenorm.metrics.intervals import Interval
from truenorm.model.evaluate import Forward, random_states_kept
from truenorm.model.layers import is_program

LIMIT = 2000
"""Samples that are looked at."""

_EXPLAINS = 0.85
"""From here on a cause explains the shift, and others that explain less are not looked for."""

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
    defects = [found for found in findings if found.level == "defect"]
    causes = [found for found in findings if found.level == "cause"]
    ranked = sorted([*defects, *causes], key=lambda found: -found.share)
    if ranked and ranked[0].share > _EXPLAINS:  # what fits less well is no other cause
        ranked = [ranked[0], *(found for found in ranked[1:] if found.level == "defect")]
    # Another preprocessing is no fault of the statistics; it is named only if undoing it was shown to help.
    data_at_fault = bool(ranked) and ranked[0].remedy == "data"
    # What mending would give is not always known: then far off is bad enough.
    far = not gains and any(layer.off > FAR for layer in off)
    healthy = not defects and not ((off and best) or data_at_fault or far)
    notes = [found for found in findings if found.level == "note"]
    scores = {name: {metric: judged.mean(metric) for metric in judged.values} for name, judged in case.scores.items()}
    return Diagnosis(
        healthy=healthy,
        verdict=_verdict(case, healthy, off, best, gains, ranked),
        layers=tuple(layers),
        findings=(*ranked, *notes),
        gains=gains,
        scores=scores,
        best=best,
        ruled_out=_ruled_out(case, off, best, gains) if healthy and gains else (),
        steps=_steps(healthy, best, gains, ranked, bool(case.estimates)),
        notes=_looked(case),
    )


def best_estimate(scores: Mapping[str, Scored]) -> str:
    """The first estimate that gains beyond noise, unless a later one gains beyond noise over it; "" is as it is."""
    best = ""
    for name in ESTIMATORS:
        if name in scores and is_gain(scores[name].gain(scores[best])):
            best = name
    return best


def _findings(case: Case, *, measured: bool) -> list[Finding]:
    found = [finding for cause in STATIC for finding in cause(case)]
    if case.estimates and measured:
        found += [finding for cause in MEASURED for finding in cause(case)]
        if max((finding.share for finding in found if finding.level != "note"), default=0.0) < _EXPLAINS:
            found += [finding for cause in LEFT_OVER for finding in cause(case)]
    elif case.estimates:
        # What is certain is said though nothing is off on these data.
        certain = [finding for cause in MEASURED[:1] for finding in cause(case)]
        found += [finding for finding in certain if finding.level == "defect"]
    return found


def _damaged(case: Case) -> bool:
    return bool(case.estimates) and case.arriving is None


def _ranked(case: Case) -> list[LayerState]:
    off = case.shift()
    if off is None or case.arriving is None:
        return []
    states: list[LayerState] = []
    for found in off.layers:
        name, shift = found.layer, min(found.shift, _MOST)
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
                floor=found.noise_floor,
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


_NOT_SCORED = "what mending gives is not known: the batches hold no class for each sample to score by"


def _verdict(
    case: Case,
    healthy: bool,
    off: list[LayerState],
    best: str,
    gains: Mapping[str, Mapping[str, Interval]],
    ranked: list[Finding],
) -> str:
    if not case.estimates:
        with_data = "" if case.sample is None else "no layer keeps statistics; "
        without = "without data: " if case.sample is None else ""
        return f"{with_data}{without}{'nothing wrong is seen' if healthy else 'something is wrong in any case'}"
    if not gains and _damaged(case):
        return f"what is stored is no statistics; {_NOT_SCORED}"
    if not gains:
        return f"{len(off)} of {len(case.stored)} layers are off; {_NOT_SCORED}"
    if best:
        part = gains[best]
        gained = [metric for metric, interval in part.items() if (interval.low or 0.0) > 0]
        told = ", ".join(f"{m} {case.scores[''].mean(m):.4g} → {case.scores[best].mean(m):.4g}" for m in gained)
        return f"the stored statistics are wrong, and mending them helps: {told} (same weights, held-out samples)"
    if not healthy:
        return "something is wrong that other statistics do not mend" if ranked else "something is wrong"
    if off:
        return (
            f"it is not batch norm: {len(off)} of {len(case.stored)} layers are off beyond noise, and no other "
            "statistics do better"
        )
    return "it is not batch norm: the stored statistics are those of these data, up to noise"


def _ruled_out(
    case: Case, off: list[LayerState], best: str, gains: Mapping[str, Mapping[str, Interval]]
) -> tuple[str, ...]:
    said: list[str] = []
    metric = ACCURACY if ACCURACY in case.scores[""].values else OWN
    most = max((gain[metric].mean for gain in gains.values()), default=0.0)
    said.append(f"statistics: no other gives more than {most:+.2g} of {metric}")
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
            change = noisy.mean(metric) - case.scores[""].mean(metric)
            said.append(f"dropout: on, as in train(), {metric} changes by {change:+.2g}")
    said.append("if the training data score much better than these, it is overfitting, or other data")
    return tuple(said)


def _steps(
    healthy: bool,
    best: str,
    gains: Mapping[str, Mapping[str, Interval]],
    ranked: list[Finding],
    with_data: bool,
) -> tuple[Step, ...]:
    first = ranked[0] if ranked else None
    advice = first.advice if first is not None else ""
    if not with_data:
        return (Step(text=advice) if advice else calling("repair" if first else "diagnose"),)
    if first is not None and first.remedy in ("data", "code") and advice:
        return (Step(text=advice), *([calling("repair", when="then")] if best and first.remedy == "code" else []))
    if best:
        return (calling("repair"), *([Step(text=advice, when="later")] if advice else []))
    if first is not None and not healthy and not gains:
        return (Step(text=advice) if advice else calling("repair", needs_score=True),)
    if first is not None and not healthy:
        return (Step(text=advice or "leave the statistics alone: none that was tried does better on these data"),)
    return (Step(text="leave the statistics alone") if gains else calling("diagnose", needs_score=True),)


def _looked(case: Case) -> tuple[str, ...]:
    if case.sample is None or case.held_out is None:
        return () if case.sample is None else ("not run: what is seen without data says enough",)
    others = "the same" if case.held_out is case.sample else f"{len(case.held_out):,} others"
    scored = f"{others} scored" if case.scores else "none scored"
    said = [f"{len(case.sample):,} samples measured and {scored}, in batches of {case.sample.batch_size}"]
    reached = {*case.joint, *case.partly}
    skipped = [name for name, layer in case.layers.items() if name not in reached and layer.stored is not None]
    said += [f"no batch reached {some(skipped)}"] if skipped else []
    said += [f"reached in some passes only, and left out: {some(case.partly)}"] if case.partly else []
    said += [f"frozen, which a repair leaves as they are: {some(case.left)}"] if case.left else []
    said += [f"called more than once per forward: {some(case.repeated)}"] if case.repeated else []
    return tuple(said)

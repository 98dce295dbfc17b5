"""Another ε than in training: it is in no state dict, and ports between frameworks lose it."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from torch import nn

from truenorm.doctor.advice import advised
from truenorm.doctor.examine import Case, chance, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import SetEps
from truenorm.errors import NotMeasurable
from truenorm.model.layers import batch_norms

_USUAL = {1e-3: "Keras, TensorFlow", 1e-5: "torch", 1e-4: "some ports", 1e-2: "", 2e-5: "MXNet", 1e-8: "", 0.0: "none"}
"""Values that frameworks have."""

_FITS = 0.6
"""Share of the shift that must be gone with another ε: with the right one nearly all is."""

_PROMISES = 0.3
"""Share that must be gone on a few samples for an ε to be tried on all."""

MATTERS = 1e-2
"""Share of the variances that ε must make up somewhere, to be looked at."""


def find(case: Case) -> Iterable[Finding]:
    names = case.compared
    if case.arriving is None or case.sample is None or len(names) < 2:
        return
    least = min(float(case.stored[name].var.clamp_min(0).double().quantile(0.25)) for name in names)
    now = {layer.eps for layer in case.layers.values()}
    candidates = [eps for eps in _USUAL if eps not in now and max(eps, *now) > MATTERS * least]
    before = distance(case.stored, case.arriving, names)
    best: tuple[float, float] | None = None
    for eps in candidates:
        with _eps(case.model, eps):
            try:
                arriving = case.measure(case.few, flow="eval")
            except NotMeasurable:
                continue
        after = distance(case.stored, arriving, names) - chance(arriving, names)
        if best is None or after < best[0]:
            best = (after, eps)
    if best is None or before <= 0 or 1 - best[0] / before < _PROMISES:
        return
    _, eps = best
    with _eps(case.model, eps):
        explained = 1 - distance(case.stored, case.measure(case.sample, flow="eval"), names) / before
        if explained <= _FITS:
            return
        scored = case.judged_on(case.model)
    advice = advised(case, scored, SetEps(eps=eps))
    if advice is not None:
        yield Finding(
            cause="eps",
            evidence={
                "eps": eps,
                "other_eps": tuple(sorted(now)),
                "framework": _USUAL[eps] or None,
                "lower_quartile": least,
                **advice.evidence,
            },
            explained=explained,
            level=advice.level,
            remedy=advice.remedy,
        )


@contextmanager
def _eps(model: nn.Module, eps: float) -> Generator[None]:
    layers = [layer for layer in batch_norms(model, tracking=False).values() if hasattr(layer, "eps")]
    before = [layer.eps for layer in layers]
    try:
        for layer in layers:
            layer.__dict__["eps"] = eps
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.__dict__["eps"] = value

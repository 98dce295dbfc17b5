"""Another ε than in training: it is in no state dict, and ports between frameworks lose it."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from torch import nn

from truenorm.doctor.advice import advised
from truenorm.doctor.examine import Case, distance
from truenorm.doctor.finding import Finding
from truenorm.doctor.remedy import SetEps
from truenorm.errors import NotMeasurable
from truenorm.model.layers import batch_norms
from truenorm.stats.statistics import Statistics

_USUAL = {1e-3: "Keras, TensorFlow", 1e-5: "torch", 1e-4: "some ports", 1e-2: "", 2e-5: "MXNet", 1e-8: "", 0.0: "none"}
"""Values that frameworks have."""

_FITS = 0.6
"""Share of the shift that must be gone with another ε: with the right one nearly all is."""

MATTERS = 1e-2
"""Share of the variances that ε must make up somewhere, to be looked at."""


def find(case: Case) -> Iterable[Finding]:
    names = [n for n in case.joint if n in case.stored and not case.layers[n].damaged]
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
                arriving = case.measure(case.sample, flow="eval")
            except NotMeasurable:
                continue
        after = distance(Statistics(dict(case.stored)), arriving, names)
        if best is None or after < best[0]:
            best = (after, eps)
    if best is None or before <= 0:
        return
    after, eps = best
    explained = 1 - after / before
    if explained <= _FITS:
        return
    with _eps(case.model, eps):
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

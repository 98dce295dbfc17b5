"""Data unlike those of training: another domain, other noise or contrast, augmentation."""

from collections.abc import Iterable

from truenorm.doctor.examine import Case
from truenorm.doctor.finding import Finding
from truenorm.stats.shift import errors


def from_the_data(case: Case) -> float | None:
    """How much speaks for the data rather than for weights that moved, 0 to 1; None where neither is off.

    What the data do to the first layer they do to all of its channels alike; weights move each in its own way.
    """
    own = case.own()
    if own is None or len(own.layers) < 2:
        return None
    first, *others = (found.shift for found in own.layers)
    name = own.layers[0].layer
    _, log_C = errors(case.stored[name], case.exact[name])
    alike = float(log_C.median().abs() / log_C.std().clamp_min(1e-6)) if len(log_C) > 1 else 0.0
    leads = first / (first + sum(others) / len(others) + 1e-12)
    return min(1.0, leads * min(alike, 2.0))


def find(case: Case) -> Iterable[Finding]:
    share = from_the_data(case)
    own = case.own()
    if share is None or own is None:
        return
    first = own.layers[0]
    yield Finding(
        cause="domain",
        sentence=f"the first layer, which only data and its own weights reach, is {first.shift:.2g} σ off: these "
        "data are unlike those that the statistics were taken from (another domain, other noise, augmentation in "
        "training)",
        share=0.6 * share,
        layers=(first.layer,),
        remedy="repair",
        advice="if these are the data it will meet, repair on them; else train on such data",
    )

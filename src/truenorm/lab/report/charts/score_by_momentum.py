"""Accuracy and NLL against momentum, and the levels that rules without a fixed momentum reach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from truenorm.errors import extra
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import colours, dashes, ink, marks
from truenorm.lab.report.summary import BASELINE, StudySummary, cell
from truenorm.show import number

_LEVELS = ("dmbn", "pooled-0.1", "last-epoch", "adaptive", "recalibrated", "sequential")
_BAND = " The band is the 95 % interval over seeds."
_HEIGHT = 280
_LINE = 15
"""Height of the chart, and of a name beside it, in pixels."""


@dataclass(frozen=True, slots=True)
class _Score:
    name: str
    metric: str
    scale: float
    most: float
    digits: int
    title: str
    axis: str
    text: str


_ACCURACY = _Score(
    "accuracy-by-momentum",
    "accuracy",
    100,
    100,
    2,
    "Accuracy by momentum",
    "accuracy, %",
    "In grey the same trained network with torch's running statistics of each momentum; higher is better. The coloured "
    "levels are what the other ways reach on the same weights.",
)
_NLL = _Score(
    "nll-by-momentum",
    "nll",
    1,
    math.inf,
    4,
    "NLL by momentum",
    "NLL, nats per image",
    "The same in negative log likelihood: lower is better. It sees probabilities that have become worse before a "
    "single answer changes.",
)


def score_by_momentum(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Two figures, or none without a sweep."""
    return tuple(one for score in (_ACCURACY, _NLL) for one in _figure(score, summaries))


def _figure(score: _Score, summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    with extra("report"):
        import altair as alt

    views = [_view(score, summary) for summary in summaries]
    arms = [arm for arm in _LEVELS if any(row.get("arm") == arm for view in views for row in view.rows)]
    scale, axis = alt.Scale(zero=False, nice=False), alt.Axis(tickCount=5)
    y = alt.Y("value:Q", scale=scale, axis=axis, title=score.axis)
    told = alt.Tooltip("told:N", title=f"{score.axis} (± 95 %)")
    base = alt.Chart(rows())
    sweep = base.transform_filter("isValid(datum.momentum)").encode(
        x=alt.X(
            "momentum:Q",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=marks("x"), grid=False, format="~g"),
            title="momentum (weight of the new batch)",
        ),
        tooltip=["momentum:Q", told],
    )
    levels = base.transform_filter("!isValid(datum.momentum)").encode(
        color=alt.Color("arm:N", scale=alt.Scale(domain=arms, range=colours(arms)), legend=None),
        tooltip=["arm:N", told],
    )
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=arms, range=dashes(arms)), legend=None)
    band = sweep.mark_area(opacity=0.18, color=ink("torch"))
    name = levels.mark_text(align="left", dx=8, fontSize=12)
    chart = alt.layer(
        band.encode(y=alt.Y("low:Q", scale=scale, axis=axis, title=score.axis), y2="high:Q"),
        *([levels.mark_rule(strokeWidth=1.5).encode(y=y, strokeDash=dash)] if arms else []),
        sweep.mark_line(color=ink("torch"), strokeWidth=2).encode(y=y),
        sweep.mark_point(color=ink("torch"), filled=True, size=50, opacity=1).encode(y=y),
        *([name.encode(x=alt.value("width"), y=alt.Y("at:Q", scale=scale), text="arm:N")] if arms else []),
    )
    text = score.text + (_BAND if any(row.get("low") != row.get("high") for v in views for row in v.rows) else "")
    return figure(score.name, chart.properties(height=_HEIGHT), text, views)


def _view(score: _Score, summary: StudySummary) -> View:
    sweep: list[Row] = []
    for momentum, arm in summary.swept.items():
        found = summary.interval(arm, score.metric, score.scale)
        if found is not None:
            # Of two seeds an interval may reach to where no score can be.
            low = found.mean if found.low is None else max(found.low, 0)
            high = found.mean if found.high is None else min(found.high, score.most)
            told = cell(found, score.digits)
            sweep.append(
                {
                    "momentum": momentum,
                    "value": rounded(found.mean),
                    "low": rounded(low),
                    "high": rounded(high),
                    "told": told,
                }
            )
    if len(sweep) < 2:
        return View(title="", rows=())
    levels = {arm: found for arm in _LEVELS if (found := summary.interval(arm, score.metric, score.scale)) is not None}
    ends = [float(row[end] or 0) for row in sweep for end in ("low", "high")] + [each.mean for each in levels.values()]
    at = _apart({arm: each.mean for arm, each in levels.items()}, min(ends), max(ends))
    named: list[Row] = [
        {"arm": arm, "value": rounded(each.mean), "at": rounded(at[arm]), "told": cell(each, score.digits)}
        for arm, each in levels.items()
    ]
    return View(title=_title(score, summary), rows=(*sweep, *named))


def _apart(levels: dict[str, float], low: float, high: float) -> dict[str, float]:
    """Where the name of each level stands, so that no two overlap and none leaves the chart.

    Example:
        >>> _apart({"dmbn": 100.0, "adaptive": 100.0, "sequential": 280.0}, 0.0, 280.0)
        {'dmbn': 100.0, 'adaptive': 115.0, 'sequential': 280.0}
    """
    line = (high - low) * _LINE / _HEIGHT
    ranked = sorted(levels, key=lambda arm: levels[arm])
    places = [levels[arm] for arm in ranked]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + line)
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - line
    return dict(zip(ranked, places, strict=True))


def _title(score: _Score, summary: StudySummary) -> str:
    """Says how far around 0.1 nothing differs, where several seeds can tell."""
    momenta = list(summary.swept)
    if score.metric != "accuracy" or 0.1 not in momenta:
        return score.title
    alike = {0.1}
    for side in (reversed(momenta[: momenta.index(0.1)]), momenta[momenta.index(0.1) + 1 :]):
        for momentum in side:
            difference = summary.difference(summary.swept[momentum], score.metric)
            if difference is None or difference.half_width is None or difference.excludes_zero:
                break
            alike.add(momentum)
    if len(alike) < 2:
        return score.title
    return (
        f"{score.title}: from {number(min(alike))} to {number(max(alike))} no difference to "
        f"{BASELINE.removeprefix('static-')} is shown"
    )

"""Accuracy and NLL against momentum, and the levels that rules without a fixed momentum reach."""

import math
from collections.abc import Sequence

import altair as alt

from truenorm.lab.report.charts.encodings import encodings, marks
from truenorm.lab.report.figure import Figure, Row, View, ends, figure, rounded, rows
from truenorm.lab.report.look import ink, study_looks
from truenorm.lab.report.summary import StudySummary, cell
from truenorm.show import number

_LEVELS = ("dmbn", "pooled-0.1", "last-epoch", "adaptive", "recalibrated", "sequential")
_BAND = " The band is the 95 % interval over seeds."
_HEIGHT = 280
_LINE = 15
"""Height of the chart, and of a name beside it, in pixels."""


_SCORES = {"accuracy": (100, 100.0, 2), "nll": (1, math.inf, 4)}
"""Metric → its scale, its largest value, its decimals."""
_ACCURACY = (
    "In grey the same trained network with torch's running statistics of each momentum; higher is better. The coloured "
    "levels are what the other ways reach on the same weights."
)
_NLL = (
    "The same in negative log likelihood: lower is better. It sees probabilities that have become worse before a "
    "single answer changes."
)


def score_by_momentum(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Two figures, or none without a sweep."""
    accuracy = [_view(summary, "accuracy", _title(summary)) for summary in summaries]
    nll = [_view(summary, "nll", "NLL by momentum") for summary in summaries]
    return (
        *_figure("accuracy-by-momentum", accuracy, "accuracy, %", _ACCURACY),
        *_figure("nll-by-momentum", nll, "NLL, nats per image", _NLL),
    )


def _figure(name: str, views: Sequence[View], title: str, text: str) -> tuple[Figure, ...]:
    drawn = [row for view in views for row in view.rows]
    arms = [arm for arm in _LEVELS if any(row.get("arm") == arm for row in drawn)]
    looks = encodings(study_looks(arms), "color", "strokeDash")
    scale, axis = alt.Scale(zero=False, nice=False), alt.Axis(tickCount=5)
    y = alt.Y("value:Q", scale=scale, axis=axis, title=title)
    score = alt.Tooltip("told:N", title=f"{title} (± 95 %)")
    base = alt.Chart(rows())
    sweep = base.transform_filter("isValid(datum.momentum)").encode(
        x=alt.X(
            "momentum:Q",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=marks("x"), grid=False, format="~g"),
            title="momentum (weight of the new batch)",
        ),
        tooltip=["momentum:Q", score],
    )
    levels = base.transform_filter("!isValid(datum.momentum)").encode(color=looks["color"], tooltip=["arm:N", score])
    band = sweep.mark_area(opacity=0.18, color=ink("torch"))
    label = levels.mark_text(align="left", dx=8, fontSize=12)
    chart = alt.layer(
        band.encode(y=alt.Y("low:Q", scale=scale, axis=axis, title=title), y2="high:Q"),
        *([levels.mark_rule(strokeWidth=1.5).encode(y=y, strokeDash=looks["strokeDash"])] if arms else []),
        sweep.mark_line(color=ink("torch"), strokeWidth=2).encode(y=y),
        sweep.mark_point(color=ink("torch"), filled=True, size=50, opacity=1).encode(y=y),
        *([label.encode(x=alt.value("width"), y=alt.Y("at:Q", scale=scale), text="arm:N")] if arms else []),
    )
    text += _BAND if any(row.get("low") != row.get("high") for row in drawn) else ""
    return figure(name, chart.properties(height=_HEIGHT), text, views)


def _view(summary: StudySummary, metric: str, title: str) -> View:
    scale, most, digits = _SCORES[metric]
    sweep: list[Row] = []
    for momentum, arm in summary.swept.items():
        score = summary.interval(arm, metric, scale)
        if score is not None:
            # Of two seeds an interval may reach to where no score can be.
            low, high = map(rounded, ends(score, 0.0, most))
            value = rounded(score.mean)
            sweep.append({"momentum": momentum, "value": value, "low": low, "high": high, "told": cell(score, digits)})
    if len(sweep) < 2:
        return View(title="", rows=())
    levels = {arm: score for arm in _LEVELS if (score := summary.interval(arm, metric, scale)) is not None}
    values = [float(row[end] or 0) for row in sweep for end in ("low", "high")]
    values += [each.mean for each in levels.values()]
    at = _apart({arm: each.mean for arm, each in levels.items()}, min(values), max(values))
    named: list[Row] = [
        {"arm": arm, "value": rounded(each.mean), "at": rounded(at[arm]), "told": cell(each, digits)}
        for arm, each in levels.items()
    ]
    return View(title=title, rows=(*sweep, *named))


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


def _title(summary: StudySummary) -> str:
    """Says how far around 0.1 nothing differs, where several seeds can tell."""
    title, momenta = "Accuracy by momentum", list(summary.swept)
    if 0.1 not in momenta:
        return title
    equal = {0.1}
    for side in (reversed(momenta[: momenta.index(0.1)]), momenta[momenta.index(0.1) + 1 :]):
        for momentum in side:
            difference = summary.difference(summary.swept[momentum], "accuracy")
            if difference is None or difference.half_width is None or difference.excludes_zero:
                break
            equal.add(momentum)
    if len(equal) < 2:
        return title
    return f"{title}: from {number(min(equal))} to {number(max(equal))} no difference to 0.1 is shown"

"""Differences with their intervals, one below the other, and the line where there is none."""

from collections.abc import Mapping, Sequence

import altair as alt

from truenorm.lab.report.charts.encodings import encodings
from truenorm.lab.report.figure import Figure, Row, View, ends, figure, rounded, rows
from truenorm.lab.report.grid import differences_by_contrast
from truenorm.lab.report.look import ink, study_looks
from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, cell, compared, num_tested
from truenorm.metrics.intervals import Interval

_AXIS = "difference, points of accuracy"
_READ = (
    "The symbol is the mean over seeds, the bar its 95 % interval: full is beyond noise (after Holm's correction), "
    "hollow within."
)
_ONE_SEED = "The symbol is the value of one seed: there is no interval, and nothing can be told from noise."
_MOST = 100.0
"""Points by which an accuracy can differ; an interval of two seeds may reach further than there is."""


def difference_by_arm(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Each arm against the baseline, paired by seed."""
    views = [_arms_view(summary) for summary in summaries]
    arms = list(dict.fromkeys(str(row["name"]) for view in views for row in view.rows))
    text = (
        f"Points of accuracy gained (to the right of 0) or lost against {BASELINE}, torch's default, seed by seed. "
        f"{_read(views)} Arms on the same weights are one family; bn-bfn and gn are other networks, each judged alone."
    )
    return figure("difference-by-arm", _chart(arms), text, views)


def contrast_by_setting(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """One figure for each contrast, a line for each setting."""
    figures: list[Figure] = []
    for contrast, differences in differences_by_contrast(summaries).items():
        beyond = beyond_noise(differences)
        view = View(
            title=f"{contrast.name}{_counted(beyond, differences)}",
            rows=forest_rows(differences, beyond),
            lines=len(differences),
        )
        name = f"contrast-{contrast.arm}-{contrast.to}"
        figures += figure(name, _chart(()), f"{contrast.question} {_read([view])}", [view])
    return tuple(figures)


def difference_by_record(title: str, name: str, view: Sequence[Row]) -> tuple[Figure, ...]:
    """Each arm of one record against the same arm of another."""
    arms = [str(row["name"]) for row in view]
    views = [View(title=title, rows=tuple(view), lines=len(view))]
    return figure(name, _chart(arms), _read(views), views)


def forest_rows(differences: Mapping[str, Interval], beyond: Mapping[str, Interval]) -> tuple[Row, ...]:
    """One row for each difference, its bar cut off where no difference can be.

    Example:
        >>> clear = {"dmbn": Interval(1.0, 0.25, 5)}
        >>> forest_rows(clear, clear)[0]["noise"]
        'beyond noise'
    """
    drawn: list[Row] = []
    for name, difference in differences.items():
        low, high = map(rounded, ends(difference, -_MOST, _MOST))
        text, noise = cell(difference, 2, signed=True), "beyond noise" if name in beyond else "within noise"
        drawn.append(
            {"name": name, "mean": rounded(difference.mean), "low": low, "high": high, "told": text, "noise": noise}
        )
    return tuple(drawn)


def _read(views: Sequence[View]) -> str:
    """How the symbols are to be read: without an interval none is spoken of."""
    return _READ if any(row["low"] != row["high"] for view in views for row in view.rows) else _ONE_SEED


def _chart(arms: Sequence[str]) -> object:
    """Coloured by arm where the lines are arms."""
    looks = encodings(study_looks(arms), "color", "shape", field="name:N")
    if not arms:
        looks = {"color": alt.value(ink("accent")), "shape": alt.value("circle")}
    ticks = alt.Axis(tickCount=6)
    # The name of a setting is long: whole where there is room, cut on a telephone.
    names = alt.Axis(labelLimit=alt.ExprRef("containerSize()[0] < 600 ? 130 : 340"))
    base = alt.Chart(rows()).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=names),
        color=looks["color"],
        tooltip=[
            alt.Tooltip("name:N", title="of"),
            alt.Tooltip("told:N", title="difference (± 95 %)"),
            alt.Tooltip("noise:N", title="which is"),
        ],
    )
    point = base.encode(x=alt.X("mean:Q", axis=ticks, title=_AXIS), shape=looks["shape"])
    beyond = alt.when("datum.noise == 'beyond noise'").then(alt.value(1)).otherwise(alt.value(0))
    return alt.layer(
        alt.Chart(rows()).mark_rule(color=ink("quiet")).encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", axis=ticks, title=_AXIS), x2="high:Q"),
        point.mark_point(size=90, opacity=1, strokeWidth=2, fill=ink("paper")),
        point.mark_point(size=90, filled=True, aria=False).encode(opacity=beyond),
    )


def _arms_view(summary: StudySummary) -> View:
    same, networks = summary.differences(compared(summary)), summary.differences(summary.networks)
    beyond = beyond_noise(same)
    alone = {arm: difference for arm, difference in networks.items() if difference.excludes_zero}
    title = f"Difference to {BASELINE}{_counted(beyond, same)}"
    return View(title=title, rows=forest_rows(same | networks, beyond | alone), lines=len(same | networks))


def _counted(beyond: Mapping[str, Interval], differences: Mapping[str, Interval]) -> str:
    """What a title says of them, where several seeds can tell."""
    tested = num_tested(differences)
    return f": {len(beyond) or 'none'} of {tested} beyond noise" if tested else ""

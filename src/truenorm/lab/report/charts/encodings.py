"""Encodings that charts share: how arms are drawn, what their legend is, where logarithmic axes have marks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from truenorm.lab.report.look import Look, study_looks

_CHANNELS = {
    "color": alt.Color,
    "fill": alt.Fill,
    "stroke": alt.Stroke,
    "shape": alt.Shape,
    "strokeDash": alt.StrokeDash,
}
_DECADES = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]


def encodings(looks: Mapping[str, Look], *channels: str, legend: Any = None, field: str = "arm:N") -> dict[str, Any]:
    """Colour, shape and dash by arm, for `Chart.encode`.

    Args:
        looks: of each arm, in the order of the legend.
        channels: `color`, `fill`, `stroke`, `shape` or `strokeDash`.
        legend: of these channels; None for none.
        field: of the data, which holds the arm.
    """
    ranges = {"shape": [look.shape for look in looks.values()], "strokeDash": [look.dash for look in looks.values()]}
    colours = [look.colour for look in looks.values()]
    scales = {name: alt.Scale(domain=list(looks), range=ranges.get(name, colours)) for name in channels}
    return {name: _CHANNELS[name](field, scale=scale, legend=legend) for name, scale in scales.items()}


def arm_lines(base: alt.Chart, arms: Sequence[str], *params: alt.Parameter, y: alt.Y, size: int) -> Any:
    """A line and symbols for each arm of a study; a click on a name of the legend shows it alone.

    Args:
        base: what is on the x axis, and what hovering shows.
        arms: in the order of the legend.
        params: more parameters of the chart.
        y: the vertical axis.
        size: of the symbols.
    """
    # One legend for lines and symbols, in as many columns as there is room for; a dash would cut its symbols to pieces.
    columns = alt.ExprRef("max(2, floor(width / 125))")
    legend, looks = alt.Legend(title=None, orient="bottom", columns=columns, symbolStrokeWidth=0), study_looks(arms)
    picked = alt.selection_point(name="picked", fields=["arm"], bind="legend")
    base = base.encode(y=y, opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)))
    return alt.layer(
        base.mark_line(strokeWidth=1.5).encode(**encodings(looks, "stroke", "strokeDash", legend=legend)),
        base.mark_point(filled=True, size=size, opacity=1, strokeWidth=0).encode(
            **encodings(looks, "fill", "shape", legend=legend)
        ),
    ).add_params(*params, picked)


def log_y(field: str, title: str) -> alt.Y:
    """A logarithmic vertical axis."""
    return alt.Y(field, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=marks("y")), title=title)


def marks(axis: str) -> Any:
    """Where a logarithmic axis has marks, in the language of charts: it depends on the data that are shown.

    1, 2, 5 of each decade; of data that span less than a factor of 5, of which fewer than two would be seen, round
    numbers at equal distances.

    Args:
        axis: `x` or `y`.
    """
    low, high = f"domain('{axis}')[0]", f"domain('{axis}')[1]"
    power = f"pow(10, floor(log({high} - {low}) / LN10))"
    step = f"({power} * (({high} - {low}) / {power} < 2 ? 0.5 : ({high} - {low}) / {power} < 5 ? 1 : 2))"
    few = f"sequence(ceil({low} / {step}) * {step}, {high} + {step} / 1000, {step})"
    # Written out, as Vega has no powers of ten in a list; those out of sight are not drawn.
    many = json.dumps([float(f"{mark:.0e}") for mark in _DECADES])
    return alt.ExprRef(f"{high} >= 5 * {low} ? {many} : {high} > {low} ? {few} : [{low}]")

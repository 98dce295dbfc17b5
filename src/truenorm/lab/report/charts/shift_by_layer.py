"""How far each way of having statistics is off, layer by layer, in the order of a forward pass."""

from collections.abc import Sequence
from statistics import fmean

import altair as alt

from truenorm.lab.report.charts.encodings import arm_lines, log_y
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import NOISE_FLOOR
from truenorm.lab.report.summary import BASELINE, REFERENCES, StudySummary, compared

_TEXT = (
    "The layers from left to right as an image passes them; lower is better, and below the dotted noise floor nothing "
    "can be told from 0. Joint is what running statistics estimate, sequential what a layer sees if all below it are "
    "exact, arriving what reaches it at inference, the errors of those below included. What is 0 by construction is "
    "not drawn. Click on a name to see it alone."
)
_NOTHING = 1e-3
"""The noise floor, in σ, where it was not measured: a tenth of it is rounding, and a logarithmic axis has no 0."""
_DEEPER = 1.5
"""By how much the shift of the second half of the layers must exceed the first's to be called more."""


def shift_by_layer(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """One figure, or none where no shift was measured."""
    views = [_view(summary) for summary in summaries]
    drawn = [row for view in views for row in view.rows]
    named = [arm for summary in summaries for arm in _arms(summary)]
    arms = [arm for arm in dict.fromkeys([*named, NOISE_FLOOR]) if any(row["arm"] == arm for row in drawn)]
    references = [reference for reference in REFERENCES if any(row["reference"] == reference for row in drawn)]
    if not references:
        return ()
    against = alt.param(
        name="against", value=references[-1], bind=alt.binding_radio(options=references, name="shift against: ")
    )
    angle = alt.Axis(labelAngle=-40, labelOverlap="greedy")
    shift, width = alt.Tooltip("shift:Q", title="shift, σ"), alt.Tooltip("width:Q", title="± 95 %")
    base = (
        alt.Chart(rows())
        .transform_filter("datum.reference == against")
        .encode(
            x=alt.X("layer:N", sort=None, title="layer, in forward order", axis=angle),
            tooltip=["arm:N", "layer:N", shift, width],
        )
    )
    chart = arm_lines(base, arms, against, y=log_y("shift:Q", "shift, σ"), size=64)
    return figure("shift-by-layer", chart.properties(height=300), _TEXT, views)


def _arms(summary: StudySummary) -> tuple[str, ...]:
    """All but the sweep, which has a map of its own."""
    return (BASELINE, *compared(summary), *summary.networks)


def _view(summary: StudySummary) -> View:
    drawn: list[Row] = []
    for reference in REFERENCES:
        floors = {layer: summary.noise_floor(reference, layer) for layer in summary.layers}
        for arm in _arms(summary):
            own = dict.fromkeys(row.layer for row in summary.rows_of(arm, f"shift.{reference}") if row.layer)
            for layer in own:
                shift = summary.interval(arm, f"shift.{reference}", layer=layer)
                if shift is not None and shift.mean > (floors.get(layer) or _NOTHING) / 10:
                    drawn.append(_row(arm, layer, reference, shift.mean, shift.half_width))
        drawn += [_row(NOISE_FLOOR, layer, reference, floor, None) for layer, floor in floors.items() if floor]
    # A chart's layers stand in the order in which they first come.
    place = {layer: index for index, layer in enumerate(summary.layers)}
    drawn.sort(key=lambda row: place.get(str(row["layer"]), len(place)))
    return View(title=_title(summary), rows=tuple(drawn))


def _row(arm: str, layer: str, reference: str, shift: float, width: float | None) -> Row:
    return {"arm": arm, "layer": layer, "reference": reference, "shift": rounded(shift, 3), "width": rounded(width, 2)}


def _title(summary: StudySummary) -> str:
    shifts = [summary.interval(BASELINE, "shift.arriving", layer=layer) for layer in summary.layers]
    means = [shift.mean for shift in shifts if shift is not None]
    half = len(means) // 2
    if half >= 2 and fmean(means[-half:]) > _DEEPER * fmean(means[:half]):
        return f"Shift by layer: that of {BASELINE} grows with depth (arriving)"
    return "Shift by layer"

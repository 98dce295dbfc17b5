"""How far each way of having statistics is off, layer by layer, in the order of a forward pass."""

from collections.abc import Sequence
from statistics import fmean

from truenorm.errors import extra
from truenorm.lab.report.charts.arms import lines, symbols
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import NOISE_FLOOR, marks
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
    with extra("report"):
        import altair as alt

    views = [_view(summary) for summary in summaries]
    drawn = {row["arm"] for view in views for row in view.rows}
    named = [arm for summary in summaries for arm in _arms(summary)]
    arms = [arm for arm in dict.fromkeys([*named, NOISE_FLOOR]) if arm in drawn]
    references = [known for known in REFERENCES if any(row["reference"] == known for v in views for row in v.rows)]
    if not references:
        return ()
    against = alt.param(
        name="against", value=references[-1], bind=alt.binding_radio(options=references, name="shift against: ")
    )
    picked = alt.selection_point(name="picked", fields=["arm"], bind="legend")
    base = (
        alt.Chart(rows())
        .transform_filter("datum.reference == against")
        .encode(
            x=alt.X(
                "layer:N",
                sort=None,
                title="layer, in forward order",
                axis=alt.Axis(labelAngle=-40, labelOverlap="greedy"),
            ),
            y=alt.Y(
                "shift:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=marks("y")), title="shift, σ"
            ),
            opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
            tooltip=[
                "arm:N",
                "layer:N",
                alt.Tooltip("shift:Q", title="shift, σ"),
                alt.Tooltip("width:Q", title="± 95 %"),
            ],
        )
    )
    chart = (
        alt.layer(
            base.mark_line(strokeWidth=1.5).encode(**lines(arms)),
            base.mark_point(filled=True, size=64, opacity=1, strokeWidth=0).encode(**symbols(arms)),
        )
        .add_params(against, picked)
        .properties(height=300)
    )
    return figure("shift-by-layer", chart, _TEXT, views)


def _arms(summary: StudySummary) -> tuple[str, ...]:
    """All but the sweep, which has a map of its own."""
    return (BASELINE, *compared(summary), *summary.networks)


def _view(summary: StudySummary) -> View:
    found: list[Row] = []
    for reference in REFERENCES:
        floors = {layer: summary.noise_floor(reference, layer) for layer in summary.layers}
        for arm in _arms(summary):
            own = dict.fromkeys(row.layer for row in summary.rows_of(arm, f"shift.{reference}") if row.layer)
            for layer in own:
                shift = summary.interval(arm, f"shift.{reference}", layer=layer)
                if shift is not None and shift.mean > (floors.get(layer) or _NOTHING) / 10:
                    found.append(_row(arm, layer, reference, shift.mean, shift.half_width))
        found += [_row(NOISE_FLOOR, layer, reference, floor, None) for layer, floor in floors.items() if floor]
    # A chart's layers stand in the order in which they first come.
    place = {layer: index for index, layer in enumerate(summary.layers)}
    found.sort(key=lambda row: place.get(str(row["layer"]), len(place)))
    return View(title=_title(summary), rows=tuple(found))


def _row(arm: str, layer: str, reference: str, shift: float, width: float | None) -> Row:
    return {"arm": arm, "layer": layer, "reference": reference, "shift": rounded(shift, 3), "width": rounded(width, 2)}


def _title(summary: StudySummary) -> str:
    shifts = [summary.interval(BASELINE, "shift.arriving", layer=layer) for layer in summary.layers]
    means = [shift.mean for shift in shifts if shift is not None]
    half = len(means) // 2
    if half >= 2 and fmean(means[-half:]) > _DEEPER * fmean(means[:half]):
        return f"Shift by layer: that of {BASELINE} grows with depth (arriving)"
    return "Shift by layer"

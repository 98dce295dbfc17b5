"""How far each layer's stored statistics are off: in all, by its own error, and by what it inherits."""

import altair as alt

from truenorm.lab.report.charts.encodings import encodings
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import NOISE_FLOOR, Look, ink
from truenorm.record import Record
from truenorm.show import number

_KINDS = {"shift.arriving": "off by", "shift.own": "own", "shift.inherited": "inherited"}
_LOOKS = {"own": Look("dmbn", "circle"), "inherited": Look("pooled", "diamond")}
_TEXT = (
    "One line for each layer, the most harmful first. The bar is how far its stored statistics are from what arrives "
    "at it, in standard deviations of that; the dots say how much is its own error and how much comes from the layers "
    "below (the two may point against each other, so they need not add up). Left of the grey mark, the noise floor, "
    "nothing can be told from 0. A layer with an error of its own is the one to mend."
)


def error_by_layer(record: Record) -> tuple[Figure, ...]:
    """One figure, or none where no layer was measured."""
    base = alt.Chart(rows()).encode(
        y=alt.Y("layer:N", sort=None, title=None),
        x=alt.X("value:Q", title="off by, σ", axis=alt.Axis(tickCount=6)),
        tooltip=["layer:N", "what:N", alt.Tooltip("told:N", title="σ")],
    )
    bar = base.transform_filter("datum.what == 'off by'").mark_bar(height=9, color=ink("line"), cornerRadius=2)
    floor = base.transform_filter(f"datum.what == '{NOISE_FLOOR}'").mark_tick(size=15, thickness=2, color=ink("torch"))
    dots = base.transform_filter(alt.FieldOneOfPredicate("what", list(_LOOKS))).mark_point(
        filled=True, size=80, opacity=1
    )
    legend = alt.Legend(title=None, orient="bottom")
    chart = alt.layer(bar, floor, dots.encode(**encodings(_LOOKS, "color", "shape", legend=legend, field="what:N")))
    return figure("error-by-layer", chart, _TEXT, [_view(record)])


def _view(record: Record) -> View:
    drawn: list[Row] = []
    for row in record.rows:
        if row.layer is not None and row.metric in _KINDS:
            drawn.append(_row(row.layer, _KINDS[row.metric], row.value))
            if row.metric == "shift.arriving" and row.error is not None:
                drawn.append(_row(row.layer, NOISE_FLOOR, row.error))
    exceeds_floor = {row.layer: row.value > (row.error or 0.0) for row in record.rows if row.metric == "shift.own"}
    counted = f": {sum(exceeds_floor.values())} of {len(exceeds_floor)} are off by themselves" if exceeds_floor else ""
    return View(title=f"Error by layer{counted}", rows=tuple(drawn), lines=len(exceeds_floor))


def _row(layer: str, what: str, value: float) -> Row:
    return {"layer": layer, "what": what, "value": rounded(value), "told": number(value)}

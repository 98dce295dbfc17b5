"""How far each layer's stored statistics are off: in all, by its own error, and by what it inherits."""

from truenorm.errors import extra
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import NOISE_FLOOR, ink
from truenorm.record import Record
from truenorm.show import number

_KINDS = {"shift.arriving": "off by", "shift.own": "own", "shift.inherited": "inherited"}
_TEXT = (
    "One line for each layer, the most harmful first. The bar is how far its stored statistics are from what arrives "
    "at it, in standard deviations of that; the dots say how much is its own error and how much comes from the layers "
    "below (the two may point against each other, so they need not add up). Left of the grey mark, the noise floor, "
    "nothing can be told from 0. A layer with an error of its own is the one to mend."
)


def error_by_layer(record: Record) -> tuple[Figure, ...]:
    """One figure, or none where no layer was measured."""
    with extra("report"):
        import altair as alt

    own = ["own", "inherited"]
    base = alt.Chart(rows()).encode(
        y=alt.Y("layer:N", sort=None, title=None),
        x=alt.X("value:Q", title="off by, σ", axis=alt.Axis(tickCount=6)),
        tooltip=["layer:N", "what:N", alt.Tooltip("told:N", title="σ")],
    )
    bar = base.transform_filter("datum.what == 'off by'").mark_bar(height=9, color=ink("line"), cornerRadius=2)
    floor = base.transform_filter(f"datum.what == '{NOISE_FLOOR}'").mark_tick(size=15, thickness=2, color=ink("torch"))
    dots = base.transform_filter(alt.FieldOneOfPredicate("what", own)).mark_point(filled=True, size=80, opacity=1)
    legend = alt.Legend(title=None, orient="bottom")
    colour = alt.Color("what:N", scale=alt.Scale(domain=own, range=[ink("dmbn"), ink("pooled")]), legend=legend)
    shape = alt.Shape("what:N", scale=alt.Scale(domain=own, range=["circle", "diamond"]), legend=legend)
    chart = alt.layer(bar, floor, dots.encode(color=colour, shape=shape))
    return figure("error-by-layer", chart, _TEXT, [_view(record)])


def _view(record: Record) -> View:
    found: list[Row] = []
    for row in record.rows:
        if row.layer is not None and row.metric in _KINDS:
            found.append(_row(row.layer, _KINDS[row.metric], row.value))
            if row.metric == "shift.arriving" and row.error is not None:
                found.append(_row(row.layer, NOISE_FLOOR, row.error))
    own = {row.layer: row.value for row in record.rows if row.metric == "shift.own"}
    floor = {row.layer: row.error or 0.0 for row in record.rows if row.metric == "shift.own"}
    wrong = [layer for layer, value in own.items() if value > floor[layer]]
    title = f"Error by layer: {len(wrong)} of {len(own)} are off by themselves" if own else "Error by layer"
    return View(title=title, rows=tuple(found), lines=len(own))


def _row(layer: str, what: str, value: float) -> Row:
    return {"layer": layer, "what": what, "value": rounded(value), "told": number(value)}

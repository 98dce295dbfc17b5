"""A map: how far each layer is off under each momentum of the sweep, and which momentum `dmbn` took."""

from collections import Counter
from collections.abc import Sequence

import altair as alt

from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.summary import StudySummary
from truenorm.show import number

_TEXT = (
    "How far torch's running statistics end from those of the data, for each layer (input at the top) and momentum: "
    "dark is near, yellow far. A ring marks what dmbn took, the number in it how many seeds agree."
)
_SMALLEST = 1e-6  # the scale is logarithmic


def shift_by_momentum(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """One figure, or none without a sweep."""
    above = alt.Axis(titleAngle=0, titleAlign="right", titleAnchor="start", titleX=-8, titleY=-10)
    base = alt.Chart(rows()).encode(
        x=alt.X("momentum:O", sort=None, title="momentum (weight of the new batch)", axis=alt.Axis(labelAngle=-45)),
        y=alt.Y("layer:N", sort=None, title="layer", axis=above),
        tooltip=[
            "layer:N",
            "momentum:O",
            alt.Tooltip("shift:Q", title="shift, σ"),
            alt.Tooltip("floor:N", title="noise floor, σ"),
            alt.Tooltip("taken:N", title="taken by dmbn"),
        ],
    )
    ends = alt.ExprRef("[domain('color')[0], domain('color')[1]]")
    legend = alt.Legend(
        title="shift, σ", orient="top", gradientLength=180, gradientThickness=10, values=ends, format=".2~g"
    )
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color("shift:Q", scale=alt.Scale(type="log", scheme="viridis"), legend=legend)
    )
    chosen = base.transform_filter("datum.chosen > 0")
    ring = chosen.mark_point(size=260, stroke="white", strokeWidth=1.5, fill="#000", fillOpacity=0.35)
    count = chosen.mark_text(color="white", fontSize=10.5, fontWeight="bold").encode(text="chosen:N")
    chart = alt.layer(cells, ring, count)
    return figure("shift-by-momentum", chart, _TEXT, [_view(summary) for summary in summaries])


def _view(summary: StudySummary) -> View:
    if len(summary.swept) < 2:
        return View(title="", rows=())
    taken = {layer: _taken(summary, layer) for layer in summary.layers}
    drawn: list[Row] = []
    for layer in summary.layers:
        floor = summary.noise_floor("joint", layer)
        for momentum, arm in summary.swept.items():
            shift = summary.interval(arm, "shift.joint", layer=layer)
            if shift is not None:
                seeds = taken[layer][momentum]
                drawn.append(
                    {
                        "layer": layer,
                        "momentum": number(momentum),
                        "shift": rounded(max(shift.mean, _SMALLEST), 3),
                        "floor": "not measured" if floor is None else number(floor, 2),
                        "chosen": seeds,
                        "taken": f"{seeds} of {taken[layer].total()} seeds" if seeds else "no",
                    }
                )
    return View(title=_title(taken), rows=tuple(drawn), lines=len(taken))


def _taken(summary: StudySummary, layer: str) -> Counter[float]:
    """Momentum of the sweep → how many seeds took it."""
    momenta = summary.momenta_of("dmbn", layer)
    return Counter(min(summary.swept, key=lambda known: abs(known - momentum)) for momentum in momenta)


def _title(taken: dict[str, Counter[float]]) -> str:
    momenta = {momentum for counts in taken.values() for momentum in counts}
    if len(momenta) > 1:
        return f"Shift by layer and momentum: dmbn takes from {number(min(momenta))} to {number(max(momenta))}"
    return "Shift by layer and momentum"

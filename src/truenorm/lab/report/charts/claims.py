"""A claim's metric for each arm: along an axis, or one arm below the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import altair as alt

from truenorm.lab.report.charts.encodings import encodings, marks
from truenorm.lab.report.claims.record import Place, format_value, place_name
from truenorm.lab.report.claims.words import amount
from truenorm.lab.report.figure import Figure, Row, View, ends, figure, rounded, rows
from truenorm.lab.report.look import SYMBOLS, Look, claim_looks
from truenorm.lab.report.parts import Key, Panels
from truenorm.lab.report.wording import capitalised

if TYPE_CHECKING:
    from truenorm.lab.claims.claim import ClaimText, Picture

_FAR = {False: 300.0, True: 1e5}
"""Whether the axis is logarithmic → so many times the usual size, and a chart has no room for it."""
_ROOM = 0.06
"""Of the axis, above and below what is drawn."""
_MANY = 7
"""Places along the axis, beyond which it has round marks and not one at each."""
_READ = {
    True: "Symbols are means over the repetitions, the band or bar around them the 95 % interval.",
    False: "Symbols are means over the repetitions, bars their 95 % intervals.",
}
"""Whether there is an axis → how to read symbols and bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A mean over seeds with its interval, in the unit of the chart."""

    arm: str
    series: str
    x: float | str | None
    at: str
    mean: float
    low: float
    high: float
    told: str
    seeds: int


_ByPanel = Mapping[str, Sequence[_Point]]


def claim_panels(claim: "ClaimText", places: Sequence[Place]) -> tuple[Panels, ...]:
    """The claim's chart, divided as its picture says, with a legend for all; none where nothing was measured.

    Args:
        claim: whose picture it is.
        places: what was measured for it.
    """
    picture = claim.picture
    if not (panels := _points(picture, places)):
        return ()
    log = ("Equal distances are equal factors.",) if picture.log_x or picture.log_y else ()
    return (
        Panels(
            heading=capitalised(picture.y),
            text=" ".join(
                [picture.text, _READ[picture.x is not None], *log, *_Axis.of(panels, picture).beyond(panels)]
            ),
            keys=tuple(
                Key(
                    name=arm,
                    text=claim.arms.get(arm, ""),
                    colour=look.colour,
                    symbol=SYMBOLS[look.shape],
                    dash=None if picture.x is None else " ".join(map(str, look.dash)),
                )
                for arm, look in _looks(claim, panels).items()
            ),
            figures=_figures(claim, panels, legend=None),
        ),
    )


def claim_figures(claim: "ClaimText", places: Sequence[Place]) -> tuple[Figure, ...]:
    """The same charts, each with a legend of its own: for where they stand alone."""
    legend = alt.Legend(title=None, orient="bottom", symbolStrokeWidth=0)
    return _figures(claim, _points(claim.picture, places), legend=legend)


def _figures(claim: "ClaimText", panels: _ByPanel, *, legend: Any) -> tuple[Figure, ...]:
    picture = claim.picture
    figures: list[Figure] = []
    for number, (panel, points) in enumerate(panels.items(), 1):
        axis, looks = _Axis.of(panels, picture), _looks(claim, panels)
        lines = len({point.series for point in points}) if picture.x is None else None
        view = View(title=panel, rows=tuple(axis.row(point) for point in points), lines=lines)
        by_arm = encodings(looks, "fill", "stroke", "shape", legend=legend) | encodings(looks, "strokeDash")
        # Without a legend the chart is one of several panels, whose heading is the title of the axis.
        value = axis.encoding(picture, picture.y if legend is not None else None)
        chart = (_dots if picture.x is None else _curves)(picture, points, value, by_arm | _tooltip(picture))
        figures += figure(claim.name if number == 1 else f"{claim.name}-{number}", chart, picture.text, [view])
    return tuple(figures)


def _looks(claim: "ClaimText", panels: _ByPanel) -> dict[str, Look]:
    """Of the arms that are drawn, in the claim's order."""
    drawn = dict.fromkeys(point.arm for points in panels.values() for point in points)
    return claim_looks([arm for arm in dict.fromkeys([*claim.arms, *drawn]) if arm in drawn])


def _points(picture: "Picture", places: Sequence[Place]) -> _ByPanel:
    """Panel → what is drawn; of arms measured at more places than axis and panels tell apart, several series."""
    measured = [
        place
        for place in places
        if picture.metric in place.values
        and place.arm not in picture.without
        and all(place.where.get(key) == at for key, at in picture.at.items())
    ]
    others = [
        key
        for key in dict.fromkeys(key for place in measured for key in place.where)
        if key not in (picture.x, picture.panels) and len({str(place.where.get(key)) for place in measured}) > 1
    ]
    panels: dict[str, list[_Point]] = {}
    for place in measured:
        if (point := _point(picture, place, others)) is not None:
            panels.setdefault(_panel(picture, place), []).append(point)
    return panels


def _point(picture: "Picture", place: Place, others: Sequence[str]) -> _Point | None:
    """None where there is no number, or no place for it on the axes."""
    interval = place.interval(picture.metric, 100 if picture.unit == "points" else 1)
    x = None if picture.x is None else _number(place.where.get(picture.x))
    if interval is None or (picture.x is not None and x is None):
        return None
    values = [interval.mean, *ends(interval)]
    if picture.unit == "factor":
        values = [math.exp(min(value, 700.0)) for value in values]
    if picture.unit == "points":
        values = [min(max(value, 0.0), 100.0) for value in values]
    mean, low, high = values
    if picture.log_y and mean <= 0:
        return None
    named = [f"{place_name(key)} {format_value(place.where[key])}" for key in others if key in place.where]
    return _Point(
        arm=place.arm,
        series=", ".join([place.arm, *named]),
        x=x,
        at=format_value(x),
        mean=mean,
        low=low,
        high=high,
        told=amount(place.interval(picture.metric), picture.unit, 2 if picture.unit == "points" else 3),
        seeds=interval.n,
    )


def _number(value: object) -> float | str | None:
    if isinstance(value, bool):
        return format_value(value)
    return float(value) if isinstance(value, int | float) else None if value is None else str(value)


def _panel(picture: "Picture", place: Place) -> str:
    if picture.panels is None or picture.panels not in place.where:
        return ""
    value = place.where[picture.panels]
    return value if isinstance(value, str) else f"{place_name(picture.panels)} {format_value(value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """From where to where the metric's axis goes: as far as what is drawn, but for what is far out."""

    low: float
    high: float
    far: float

    @staticmethod
    def of(panels: _ByPanel, picture: "Picture") -> "_Axis":
        """One axis for all panels."""
        points = [point for inside in panels.values() for point in inside]
        sizes = sorted(abs(point.mean) for point in points if point.mean)
        usual = quantiles(sizes, n=4, method="inclusive")[0] if len(sizes) > 1 else max(sizes, default=1.0)
        far = _FAR[picture.log_y] * usual if picture.unit != "points" else math.inf
        near = [point for point in points if abs(point.mean) <= far]
        scale = _log if picture.log_y else float
        means = [scale(point.mean) for point in near]
        # An interval reaches as far as the means do, and as far again: one that is endless would leave no room.
        span = max(means) - min(means)
        reach = max(span, math.log(2)) if picture.log_y else max(span, 0.02 * max(map(abs, means)), 1e-12)
        low = max(min(scale(point.low) for point in near), min(means) - reach)
        high = min(max(scale(point.high) for point in near), max(means) + reach)
        room = _ROOM * (max(high - low, math.log(1.2)) if picture.log_y else high - low or reach)
        if picture.log_y:
            return _Axis(low=math.exp(low - room), high=math.exp(high + room), far=far)
        if picture.unit == "points":
            return _Axis(low=max(0.0, low - room), high=min(100.0, high + room), far=far)
        return _Axis(low=0.0 if 0 <= low < high / 3 else low - room, high=high + room, far=far)

    def row(self, point: _Point) -> Row:
        """A point as the chart draws it: what is beyond the axis, at its end."""
        values = {"mean": point.mean, "low": point.low, "high": point.high}
        drawn = {name: rounded(min(max(value, self.low), self.high), 6) for name, value in values.items()}
        return {**asdict(point), **drawn, "far": "yes" if self._is_far(point) else "no"}

    def beyond(self, panels: _ByPanel) -> tuple[str, ...]:
        """A sentence about points that the chart has no room for."""
        far = [point for points in panels.values() for point in points if self._is_far(point)]
        if not far:
            return ()
        most = max((point.mean for point in far), key=abs)
        counted = "1 point lies" if len(far) == 1 else f"{len(far)} points lie"
        return (
            f"{counted} far beyond the chart's edge (as far as {format_value(most)}), drawn at it as hollow symbols; "
            "the table has the numbers.",
        )

    def encoding(self, picture: "Picture", title: str | None) -> dict[str, Any]:
        """Scale, title and marks, for `alt.Y` of curves or `alt.X` of dots."""
        dots = picture.x is None
        ticks: dict[str, Any] = {"tickCount": 5 if dots else 6}
        if picture.log_y:
            ticks = {"values": marks("x" if dots else "y")}
        if dots:
            ticks |= {"labelOverlap": "greedy", "labelSeparation": 5}
        kind = "log" if picture.log_y else "linear"
        scale = alt.Scale(type=kind, domain=[self.low, self.high], nice=False)
        return {"scale": scale, "title": title, "axis": alt.Axis(**ticks)}

    def _is_far(self, point: _Point) -> bool:
        return abs(point.mean) > self.far


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _tooltip(picture: "Picture") -> dict[str, Any]:
    along = [] if picture.x is None else [alt.Tooltip("at:N", title=picture.x_title or place_name(picture.x))]
    told, seeds = alt.Tooltip("told:N", title=picture.y), alt.Tooltip("seeds:Q", title="seeds")
    return {"tooltip": [alt.Tooltip("series:N", title="arm"), *along, told, seeds]}


def _symbols(base: alt.Chart, shared: Mapping[str, Any], *, size: int, stroke: float) -> alt.Chart:
    """Symbols of means; hollow where one lies beyond the axis."""
    inside = alt.when("datum.far == 'yes'").then(alt.value(0)).otherwise(alt.value(1))
    encoded = {name: shared[name] for name in ("fill", "stroke", "shape", "tooltip")}
    return base.mark_point(size=size, opacity=1, strokeWidth=stroke).encode(fillOpacity=inside, **encoded)


def _curves(picture: "Picture", points: Sequence[_Point], value: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    places = dict.fromkeys(point.x for point in points)
    numbers = [place for place in places if isinstance(place, float)]
    continuous = len(numbers) == len(places)
    title = picture.x_title or place_name(picture.x or "")
    if continuous:
        log = picture.log_x and min(numbers) > 0
        ticks = sorted(numbers) if len(numbers) <= _MANY else marks("x") if log else alt.Undefined
        kind: dict[str, Any] = {"type": "log"} if log else {"zero": False}
        x = alt.X(
            "x:Q",
            title=title,
            scale=alt.Scale(**kind, nice=False, padding=8),
            axis=alt.Axis(labelOverlap="greedy", labelSeparation=5, values=ticks),
        )
    else:
        x = alt.X("x:N", title=title, sort=None, axis=alt.Axis(labelAngle=0, labelLimit=90))
    base = alt.Chart(rows()).encode(x=x, detail="series:N")
    interval = base.encode(y=alt.Y("low:Q", **value), y2="high:Q")
    mean = base.encode(y=alt.Y("mean:Q", **value))
    line = {name: shared[name] for name in ("stroke", "strokeDash", "tooltip")}
    return alt.layer(
        interval.mark_area(opacity=0.13, clip=True).encode(fill=shared["fill"])
        if continuous
        else interval.mark_rule(strokeWidth=1.5, opacity=0.6).encode(stroke=shared["stroke"]),
        mean.mark_line(strokeWidth=1.8, clip=True).encode(**line),
        _symbols(mean, shared, size=46, stroke=1.4),
    ).properties(height=250)


def _dots(picture: "Picture", points: Sequence[_Point], value: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    names = alt.Axis(labelLimit=alt.ExprRef("containerSize()[0] < 420 ? 110 : 260"))
    base = alt.Chart(rows()).encode(y=alt.Y("series:N", sort=None, title=None, axis=names))
    interval = base.encode(x=alt.X("low:Q", **value), x2="high:Q", stroke=shared["stroke"], tooltip=shared["tooltip"])
    mean = base.encode(x=alt.X("mean:Q", **value))
    return alt.layer(interval.mark_rule(strokeWidth=2), _symbols(mean, shared, size=90, stroke=1.6))

"""A claim's metric for each arm: along an axis, or one arm below the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from truenorm.errors import extra
from truenorm.lab.report.claims.record import Place, format_value, place_name
from truenorm.lab.report.claims.words import amount
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import SYMBOLS, Looks, marks
from truenorm.lab.report.parts import Key, Panels

if TYPE_CHECKING:
    from truenorm.lab.claims.claim import ClaimText, Picture

_FAR = {False: 300.0, True: 1e5}
"""Whether the axis is logarithmic → so many times the usual size, and a chart has no room for it."""
_ROOM = 0.06
"""Of the axis, above and below what is drawn."""
_MANY = 7
"""Places along the axis, beyond which it has round marks and not one at each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A mean over seeds with its interval, in the unit of the chart."""

    panel: str
    arm: str
    series: str
    x: float | str | None
    mean: float
    low: float
    high: float
    told: str
    seeds: int


def claim_panels(claim: "ClaimText", places: Sequence[Place]) -> tuple[Panels, ...]:
    """The claim's chart, divided as its picture says, with a legend for all; none where nothing was measured.

    Args:
        claim: whose picture it is.
        places: what was measured for it.
    """
    picture = claim.picture
    if not (points := _points(picture, places)):
        return ()
    looks = _looks(claim, points)
    dashes = [None] * len(looks.arms) if picture.x is None else [" ".join(map(str, dash)) for dash in looks.dashes]
    return (
        Panels(
            heading=f"{picture.y[:1].upper()}{picture.y[1:]}",
            text=" ".join(
                [picture.text, _READ[picture.x is not None], *_log(picture), *_Axis.of(points, picture).beyond(points)]
            ),
            keys=tuple(
                Key(name=arm, text=claim.arms.get(arm, ""), colour=colour, symbol=SYMBOLS[shape], dash=dash)
                for arm, colour, shape, dash in zip(looks.arms, looks.colours, looks.shapes, dashes, strict=True)
            ),
            figures=_figures(claim, points, legend=None),
        ),
    )


def claim_figures(claim: "ClaimText", places: Sequence[Place]) -> tuple[Figure, ...]:
    """The same charts, each with a legend of its own: for where they stand alone."""
    with extra("report"):
        import altair as alt

    points = _points(claim.picture, places)
    return _figures(claim, points, legend=alt.Legend(title=None, orient="bottom", symbolStrokeWidth=0))


def _figures(claim: "ClaimText", points: Sequence[_Point], *, legend: Any) -> tuple[Figure, ...]:
    picture = claim.picture
    draw = _dots if picture.x is None else _curves
    found: list[Figure] = []
    for place, panel in enumerate(dict.fromkeys(point.panel for point in points)):
        axis, inside = _Axis.of(points, picture), [point for point in points if point.panel == panel]
        name = claim.name if not place else f"{claim.name}-{place + 1}"
        lines = len({point.series for point in inside}) if picture.x is None else None
        view = View(title=panel, rows=tuple(axis.row(point) for point in inside), lines=lines)
        chart = draw(picture, inside, axis, _encodings(picture, _looks(claim, points), legend))
        found += figure(name, chart, picture.text, [view])
    return tuple(found)


def _looks(claim: "ClaimText", points: Sequence[_Point]) -> Looks:
    """Of the arms that are drawn, in the claim's order."""
    drawn = dict.fromkeys(point.arm for point in points)
    return Looks([arm for arm in dict.fromkeys([*claim.arms, *drawn]) if arm in drawn])


_READ = {
    True: "Symbols are means over the repetitions, the band or bar around them the 95 % interval.",
    False: "Symbols are means over the repetitions, bars their 95 % intervals.",
}


def _log(picture: "Picture") -> tuple[str, ...]:
    """What is said of logarithmic axes."""
    return ("Equal distances are equal factors.",) if picture.log_x or picture.log_y else ()


def _points(picture: "Picture", places: Sequence[Place]) -> list[_Point]:
    """What is drawn; of arms measured at more places than the axis and the panels tell apart, several series."""
    measured = [
        place
        for place in places
        if picture.metric in place.values
        and place.arm not in picture.without
        and all(place.where.get(key) == at for key, at in picture.at.items())
    ]
    axes = {picture.x, picture.panels}
    rest = [
        key
        for key in dict.fromkeys(key for place in measured for key in place.where if key not in axes)
        if len({str(place.where.get(key)) for place in measured}) > 1
    ]
    found: list[_Point] = []
    for place in measured:
        interval = place.interval(picture.metric, 100 if picture.unit == "points" else 1)
        x = None if picture.x is None else _number(place.where.get(picture.x))
        if interval is None or (picture.x is not None and x is None):
            continue
        ends = [interval.mean if end is None else end for end in (interval.mean, interval.low, interval.high)]
        if picture.unit == "factor":
            ends = [math.exp(min(end, 700.0)) for end in ends]
        if picture.unit == "points":
            ends = [min(max(end, 0.0), 100.0) for end in ends]
        mean, low, high = ends
        if picture.log_y and mean <= 0:
            continue  # no place on such an axis
        others = [f"{place_name(key)} {format_value(place.where[key])}" for key in rest if key in place.where]
        found.append(
            _Point(
                panel=_panel(picture, place),
                arm=place.arm,
                series=", ".join([place.arm, *others]),
                x=x,
                mean=mean,
                low=low,
                high=high,
                told=amount(place.interval(picture.metric), picture.unit, 2 if picture.unit == "points" else 3),
                seeds=interval.n,
            )
        )
    return found


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
    log: bool
    far: float

    @staticmethod
    def of(points: Sequence[_Point], picture: "Picture") -> "_Axis":
        log = picture.log_y
        sizes = sorted(abs(point.mean) for point in points if point.mean)
        usual = quantiles(sizes, n=4, method="inclusive")[0] if len(sizes) > 1 else max(sizes, default=1.0)
        far = _FAR[log] * usual if picture.unit != "points" else math.inf
        near = [point for point in points if abs(point.mean) <= far] if max(sizes, default=0.0) > far else [*points]
        if len(near) == len(points):
            far = math.inf
        # An interval reaches as far as the means do, and as far again: one that is endless would leave no room.
        ends = [point.mean for point in near]
        if log:
            low, high = math.log(min(ends)), math.log(max(ends))
            reach = max(high - low, math.log(2))
            lows = [math.log(point.low) if point.low > 0 else -math.inf for point in near]
            low = max(min(lows), low - reach)
            high = min(max(math.log(point.high) for point in near), high + reach)
            room = _ROOM * max(high - low, math.log(1.2))
            return _Axis(low=math.exp(low - room), high=math.exp(high + room), log=log, far=far)
        reach = max(max(ends) - min(ends), 0.02 * max(map(abs, ends)), 1e-12)
        low = max(min(point.low for point in near), min(ends) - reach)
        high = min(max(point.high for point in near), max(ends) + reach)
        room = _ROOM * (high - low or reach)
        if picture.unit == "points":
            return _Axis(low=max(0.0, low - room), high=min(100.0, high + room), log=log, far=far)
        floor = 0.0 if 0 <= low < high / 3 else low - room
        return _Axis(low=floor, high=high + room, log=log, far=far)

    def row(self, point: _Point) -> Row:
        """A point as the chart draws it: what is beyond the axis, at its end."""
        return {
            "arm": point.arm,
            "series": point.series,
            "x": point.x,
            "at": format_value(point.x),
            "mean": self._within(point.mean),
            "low": self._within(point.low),
            "high": self._within(point.high),
            "told": point.told,
            "seeds": point.seeds,
            "far": "yes" if self._is_far(point) else "no",
        }

    def beyond(self, points: Sequence[_Point]) -> tuple[str, ...]:
        """What is said of points that the chart has no room for."""
        far = [point for point in points if self._is_far(point)]
        if not far:
            return ()
        most = max((point.mean for point in far), key=abs)
        said = "1 point lies" if len(far) == 1 else f"{len(far)} points lie"
        return (
            f"{said} far beyond the chart's edge (as far as {format_value(most)}), drawn at it as hollow symbols; "
            "the table has the numbers.",
        )

    def _is_far(self, point: _Point) -> bool:
        return abs(point.mean) > self.far

    def _within(self, value: float) -> float | None:
        return rounded(min(max(value, self.low), self.high), 6)


def _encodings(picture: "Picture", looks: Looks, legend: Any) -> dict[str, Any]:
    """What lines and symbols take of it: colour, shape and dash of the arm, and what hovering shows."""
    with extra("report"):
        import altair as alt

    arms = list(looks.arms)
    tooltip = [alt.Tooltip("series:N", title="arm")]
    if picture.x is not None:
        tooltip.append(alt.Tooltip("at:N", title=picture.x_title or place_name(picture.x)))
    tooltip += [
        alt.Tooltip("told:N", title=picture.y),
        alt.Tooltip("seeds:Q", title="seeds"),
    ]
    return {
        "fill": alt.Fill("arm:N", scale=alt.Scale(domain=arms, range=looks.colours), legend=legend),
        "stroke": alt.Stroke("arm:N", scale=alt.Scale(domain=arms, range=looks.colours), legend=legend),
        "shape": alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=looks.shapes), legend=legend),
        "strokeDash": alt.StrokeDash("arm:N", scale=alt.Scale(domain=arms, range=looks.dashes), legend=None),
        "tooltip": tooltip,
        "title": picture.y if legend is not None else None,  # else it is the heading of all panels
    }


def _hollow(alt: Any) -> Any:
    """The inside of a symbol: none of one that lies beyond the axis."""
    return alt.when("datum.far == 'yes'").then(alt.value(0)).otherwise(alt.value(1))


def _value_axis(axis: _Axis) -> Mapping[str, Any]:
    with extra("report"):
        import altair as alt

    return {"scale": alt.Scale(type="log" if axis.log else "linear", domain=[axis.low, axis.high], nice=False)}


def _curves(picture: "Picture", points: Sequence[_Point], axis: _Axis, shared: Mapping[str, Any]) -> object:
    with extra("report"):
        import altair as alt

    places = list(dict.fromkeys(point.x for point in points))
    numbers = [place for place in places if isinstance(place, float)]
    continuous = len(numbers) == len(places)
    title = picture.x_title or place_name(picture.x or "")
    if continuous:
        log = picture.log_x and min(numbers) > 0
        ticks = sorted(numbers) if len(numbers) <= _MANY else marks("x") if log else None
        kept: dict[str, Any] = {} if ticks is None else {"values": ticks}
        x: Any = alt.X(
            "x:Q",
            title=title,
            scale=alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(zero=False, nice=False, padding=8),
            axis=alt.Axis(labelOverlap="greedy", labelSeparation=5, **kept),
        )
    else:
        x = alt.X("x:N", title=title, sort=None, axis=alt.Axis(labelAngle=0, labelLimit=90))
    values: dict[str, Any] = {"values": marks("y")} if axis.log else {"tickCount": 6}
    y: dict[str, Any] = {**_value_axis(axis), "title": shared["title"], "axis": alt.Axis(**values)}
    base = alt.Chart(rows()).encode(x=x, detail="series:N")
    line = {name: shared[name] for name in ("stroke", "strokeDash", "tooltip")}
    symbol = {name: shared[name] for name in ("fill", "stroke", "shape", "tooltip")}
    ends: dict[str, Any] = {"y": alt.Y("low:Q", **y), "y2": "high:Q"}
    spread = (
        base.mark_area(opacity=0.13, clip=True).encode(fill=shared["fill"], **ends)
        if continuous
        else base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(stroke=shared["stroke"], **ends)
    )
    return alt.layer(
        spread,
        base.mark_line(strokeWidth=1.8, clip=True).encode(y=alt.Y("mean:Q", **y), **line),
        base.mark_point(size=46, opacity=1, strokeWidth=1.4).encode(
            y=alt.Y("mean:Q", **y), fillOpacity=_hollow(alt), **symbol
        ),
    ).properties(height=250)


def _dots(picture: "Picture", points: Sequence[_Point], axis: _Axis, shared: Mapping[str, Any]) -> object:
    with extra("report"):
        import altair as alt

    values: dict[str, Any] = {"values": marks("x")} if axis.log else {"tickCount": 5}
    x: dict[str, Any] = {
        **_value_axis(axis),
        "title": shared["title"],
        "axis": alt.Axis(labelOverlap="greedy", labelSeparation=5, **values),
    }
    names = alt.Axis(labelLimit=alt.ExprRef("containerSize()[0] < 420 ? 110 : 260"))
    symbol = {name: shared[name] for name in ("fill", "stroke", "shape", "tooltip")}
    base = alt.Chart(rows()).encode(y=alt.Y("series:N", sort=None, title=None, axis=names))
    return alt.layer(
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", **x), x2="high:Q", stroke=shared["stroke"], tooltip=shared["tooltip"]
        ),
        base.mark_point(size=90, opacity=1, strokeWidth=1.6).encode(
            x=alt.X("mean:Q", **x), fillOpacity=_hollow(alt), **symbol
        ),
    )

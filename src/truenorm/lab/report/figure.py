"""A figure: one chart, what it says of each setting, and how to read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from truenorm.errors import extra
from truenorm.files import write_whole
from truenorm.lab.report.look import CONFIG, in_light
from truenorm.metrics.intervals import Interval

Row = Mapping[str, str | float | int | None]

_SVG_WIDTH = 720
_LINE = 26
"""In pixels: of the chart, and of a line of one that is made of lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a figure shows of one setting.

    Args:
        title: what one sees, or a plain name where the data say nothing so clear.
        rows: the chart's data; none where there is nothing to draw.
        lines: how many lines a chart has that is made of lines; None where its height is always the same.
    """

    title: str
    rows: tuple[Row, ...]
    lines: int | None = None

    def filled_in(self) -> dict[str, Any]:
        """What these data add to the figure's specification: themselves, and how high they make it."""
        height = {} if self.lines is None else {"height": _LINE * self.lines}
        return {**height, "datasets": {"rows": list(self.rows)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart without its data, and the data of each setting.

    Args:
        name: of its SVG file, and in the page.
        spec: in Vega-Lite; its data are called `rows`.
        text: how to read it, in a sentence or two.
        views: one for each setting.
    """

    kind: ClassVar[str] = "figure"
    name: str
    spec: Mapping[str, Any]
    text: str
    views: tuple[View, ...]

    def to_svg(self, view: View) -> str:
        """The chart of one setting as a file for documents, in the colours of a light page."""
        with extra("report"):
            from vl_convert import vegalite_to_svg

        return vegalite_to_svg(in_light(self.spec) | view.filled_in() | {"width": _SVG_WIDTH, "background": "white"})


def figure(name: str, chart: Any, text: str, views: Sequence[View]) -> tuple[Figure, ...]:
    """A figure around a chart of altair's; none where no setting has anything to draw.

    Args:
        name: of the figure.
        chart: whose data are called `rows`; as wide as there is room.
        text: how to read it.
        views: one for each setting.
    """
    if not any(view.rows for view in views):
        return ()
    spec = chart.properties(width="container").configure(**CONFIG).to_dict()
    return (Figure(name=name, spec=spec, text=text, views=tuple(views)),)


def rows() -> Any:
    """Where a chart's data will be: `altair.Chart(rows())`."""
    with extra("report"):
        from altair import NamedData

    return NamedData("rows")


def rounded(value: float | None, digits: int = 5) -> float | None:
    """As many significant digits as a chart can show.

    Example:
        >>> rounded(0.123456789), rounded(0.123456789, 2), rounded(None)
        (0.12346, 0.12, None)
    """
    return None if value is None else float(f"{value:.{digits}g}")


def ends(interval: Interval, least: float = -inf, most: float = inf) -> tuple[float, float]:
    """Where the bar of an interval begins and ends: at the mean where there is no interval, and within the limits.

    Example:
        >>> ends(Interval(1.0, 0.5, 5)), ends(Interval(1.0, 5.0, 2), least=0.0), ends(Interval(1.0, None, 1))
        ((0.5, 1.5), (0.0, 6.0), (1.0, 1.0))
    """
    low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
    return max(low, least), min(high, most)


def write_svgs(figures: Sequence[Figure], folder: Path, labels: Sequence[str] = ("",)) -> list[Path]:
    """Write each chart, of each setting that has it, as `shift-by-layer.svg` or `shift-by-layer-batch-8.svg`.

    Args:
        figures: what to write.
        folder: where; it is made.
        labels: of the settings, as many as a figure that differs among them has views.
    """
    written: list[Path] = []
    for figure in figures:
        for view, label in zip(figure.views, labels if len(figure.views) > 1 else ("",), strict=True):
            if view.rows:
                words = "".join(letter if letter.isalnum() or letter in "._" else " " for letter in label).split()
                path = folder / f"{'-'.join([figure.name, *words])}.svg"
                write_whole(path, figure.to_svg(view).encode())
                written.append(path)
    return written

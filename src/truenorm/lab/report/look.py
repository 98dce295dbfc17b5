"""How charts look: one colour and one shape for an arm, wherever it is drawn.

Colours are names of the page's style (`var(--dmbn)`), so that a chart follows light and dark as its page does. Hue
tells the family of an arm, shape (or dash) the member: nothing is told by hue alone. After Okabe and Ito's palette,
which people with any colour vision can tell apart, darkened or lightened where a background asks for it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truenorm.errors import extra

COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181c"),
    "surface": ("#f5f6f8", "#1e2227"),
    "ink": ("#1b1f24", "#e7e9ec"),
    "quiet": ("#59636e", "#a0a9b3"),
    "line": ("#dfe3e8", "#343a41"),
    "accent": ("#0b62b8", "#7db8f7"),
    "torch": ("#6b737c", "#a7aeb6"),
    "dmbn": ("#c94f08", "#f58f4f"),
    "pooled": ("#1a78bd", "#5cb8ec"),
    "adaptive": ("#008060", "#35c79c"),
    "pass": ("#a5458f", "#df9bcb"),
    "network": ("#8b6b00", "#dcb845"),
}
"""Name → in light, in dark."""

BAR = "M-1,-0.12L1,-0.12L1,0.12L-1,0.12Z"
"""A symbol of its own: a short level line."""
NOISE_FLOOR = "noise floor"
"""Drawn beside the arms, as if it were one."""

_ARMS = {
    "static-0.1": ("torch", "circle"),
    "bn": ("torch", "circle"),
    "cumulative": ("torch", "square"),
    "dmbn": ("dmbn", "circle"),
    "dmbn-switch": ("dmbn", "square"),
    "dmbn-online": ("dmbn", "triangle-up"),
    "pooled-0.1": ("pooled", "circle"),
    "dmbn-pooled": ("pooled", "square"),
    "last-epoch": ("pooled", "triangle-up"),
    "adaptive": ("adaptive", "circle"),
    "recalibrated": ("pass", "circle"),
    "sequential": ("pass", "square"),
    "update_bn": ("pass", "triangle-up"),
    "bn-bfn": ("network", "diamond"),
    "gn": ("network", "cross"),
    "none": ("torch", "square"),
    "ln": ("adaptive", "triangle-up"),
    "in": ("pass", "diamond"),
    NOISE_FLOOR: ("torch", BAR),
}
_DASHES = {
    "circle": [1, 0],
    "square": [7, 3],
    "triangle-up": [2, 3],
    "diamond": [1, 0],
    "cross": [7, 3],
    BAR: [1, 4],
}
_UNKNOWN = ("torch", "triangle-down")
_FREE = (
    *(("dmbn", "triangle-down"), ("adaptive", "square"), ("pass", "triangle-up"), ("network", "circle")),
    *(("torch", "diamond"), ("dmbn", "cross"), ("adaptive", "triangle-down"), ("pass", "square")),
    *(("network", "triangle-up"), ("torch", "cross"), ("dmbn", "diamond"), ("adaptive", "circle")),
)
"""For arms of free names, in the order in which they come; neighbours differ in both."""

SYMBOLS: Mapping[str, str] = {
    "circle": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "square": "M-.9,-.9H.9V.9H-.9Z",
    "triangle-up": "M0,-1.1L1.1,.9H-1.1Z",
    "triangle-down": "M0,1.1L1.1,-.9H-1.1Z",
    "diamond": "M0,-1.2L1,0L0,1.2L-1,0Z",
    "cross": "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
}
"""Each shape as an SVG path about 0, two units wide, for legends outside a chart."""

_DECADES = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]

CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11.5,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelLimit": 180,
    },
    "axisDiscrete": {"grid": False, "domain": False, "ticks": False, "labelPadding": 8},
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--quiet)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "symbolStrokeWidth": 2,
    },
}


def marks(axis: str) -> Any:
    """Where a logarithmic axis has marks, in the language of charts: it depends on the data that are shown.

    1, 2, 5 of each decade; of data that span less than a factor of 5, of which fewer than two would be seen, round
    numbers at equal distances.

    Args:
        axis: `x` or `y`.
    """
    with extra("report"):
        from altair import ExprRef

    low, high = f"domain('{axis}')[0]", f"domain('{axis}')[1]"
    power = f"pow(10, floor(log({high} - {low}) / LN10))"
    step = f"({power} * (({high} - {low}) / {power} < 2 ? 0.5 : ({high} - {low}) / {power} < 5 ? 1 : 2))"
    few = f"sequence(ceil({low} / {step}) * {step}, {high} + {step} / 1000, {step})"
    # Written out, as Vega has no powers of ten in a list; those out of sight are not drawn.
    many = json.dumps([float(f"{mark:.0e}") for mark in _DECADES])
    return ExprRef(f"{high} >= 5 * {low} ? {many} : {high} > {low} ? {few} : [{low}]")


def ink(name: str) -> str:
    """A colour by its name in the page's style.

    Example:
        >>> ink("dmbn")
        'var(--dmbn)'
    """
    return f"var(--{name})"


def colours(arms: Sequence[str]) -> list[str]:
    """The colour of each arm.

    Example:
        >>> colours(["dmbn", "adaptive"])
        ['var(--dmbn)', 'var(--adaptive)']
    """
    return [ink(_ARMS.get(arm, _UNKNOWN)[0]) for arm in arms]


def shapes(arms: Sequence[str]) -> list[str]:
    """The symbol of each arm."""
    return [_ARMS.get(arm, _UNKNOWN)[1] for arm in arms]


def dashes(arms: Sequence[str]) -> list[list[int]]:
    """The dash of each arm's line."""
    return [_DASHES.get(shape, [2, 3]) for shape in shapes(arms)]


@dataclass(frozen=True, slots=True)
class Looks:
    """How the arms of a claim look: batch norm in the page's own colour, and no two alike while there are looks left.

    Args:
        arms: in their order.

    Example:
        >>> looks = Looks(("none", "bn", "ghost-32"))
        >>> looks.colours, looks.shapes
        (['var(--torch)', 'var(--accent)', 'var(--dmbn)'], ['square', 'circle', 'triangle-down'])
    """

    arms: Sequence[str]

    @property
    def colours(self) -> list[str]:
        """Of each arm."""
        return [ink(colour) for colour, _ in self._found]

    @property
    def shapes(self) -> list[str]:
        """Of each arm."""
        return [shape for _, shape in self._found]

    @property
    def dashes(self) -> list[list[int]]:
        """Of each arm's line."""
        return [_DASHES.get(shape, [2, 3]) for shape in self.shapes]

    @property
    def _found(self) -> list[tuple[str, str]]:
        known = {arm: _ARMS[arm] for arm in self.arms if arm in _ARMS} | {"bn": ("accent", "circle")}
        free = [look for look in _FREE if look not in known.values()]
        others = [arm for arm in self.arms if arm not in known]
        return [known[arm] if arm in known else free[others.index(arm) % len(free)] for arm in self.arms]


def in_light(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same chart with the colours themselves, for where no page names them.

    Example:
        >>> in_light({"mark": {"color": ink("ink")}})
        {'mark': {'color': '#1b1f24'}}
    """
    return json.loads(re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]][0], json.dumps(spec)))

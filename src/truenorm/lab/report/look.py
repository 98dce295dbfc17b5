"""How charts look: one colour and one shape for an arm, wherever it is drawn.

Colours are names of the page's style (`var(--dmbn)`), so that a chart follows light and dark as its page does. Hue
tells the family of an arm, shape (or dash) the member: nothing is told by hue alone. After Okabe and Ito's palette,
which people with any colour vision can tell apart, darkened or lightened where a background asks for it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

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


def ink(name: str) -> str:
    """A colour by its name in the page's style.

    Example:
        >>> ink("dmbn")
        'var(--dmbn)'
    """
    return f"var(--{name})"


@dataclass(frozen=True, slots=True)
class Look:
    """How an arm is drawn.

    Args:
        name: of its colour.
        shape: of its symbol.
    """

    name: str
    shape: str

    @property
    def colour(self) -> str:
        """As the page's style names it."""
        return ink(self.name)

    @property
    def dash(self) -> list[int]:
        """Of its line."""
        return _DASHES.get(self.shape, [2, 3])


def study_looks(arms: Iterable[str]) -> dict[str, Look]:
    """The look of each arm of a study, the same in all charts.

    Example:
        >>> study_looks(["dmbn"])["dmbn"].colour
        'var(--dmbn)'
    """
    return {arm: Look(*_ARMS.get(arm, _UNKNOWN)) for arm in arms}


def claim_looks(arms: Sequence[str]) -> dict[str, Look]:
    """The look of each arm of a claim: batch norm in the page's own colour, no two equal while there are looks left.

    Example:
        >>> looks = claim_looks(("none", "bn", "ghost-32"))
        >>> [(look.name, look.shape) for look in looks.values()]
        [('torch', 'square'), ('accent', 'circle'), ('dmbn', 'triangle-down')]
    """
    known = {arm: _ARMS[arm] for arm in arms if arm in _ARMS} | {"bn": ("accent", "circle")}
    free = cycle([look for look in _FREE if look not in known.values()])
    return {arm: Look(*(known.get(arm) or next(free))) for arm in arms}


def in_light(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same chart with the colours themselves, for where no page names them.

    Example:
        >>> in_light({"mark": {"color": ink("ink")}})
        {'mark': {'color': '#1b1f24'}}
    """
    return json.loads(re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]][0], json.dumps(spec)))

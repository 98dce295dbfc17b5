"""How charts look: one colour and one shape for an arm, wherever it is drawn.

Colours are names of the page's style (`var(--dmbn)`), so that a chart follows light and dark as its page does. Hue
tells the family of an arm, shape (or dash) the member: nothing is told by hue alone. After Okabe and Ito's palette,
which people with any colour vision can tell apart, darkened or lightened where a background asks for it.
"""

import json
import re
from collections.abc import Mapping, Sequence
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


def in_light(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same chart with the colours themselves, for where no page names them.

    Example:
        >>> in_light({"mark": {"color": ink("ink")}})
        {'mark': {'color': '#1b1f24'}}
    """
    return json.loads(re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]][0], json.dumps(spec)))

"""How the arms of a study are drawn as lines and as symbols, and what their legend is."""

from collections.abc import Sequence
from typing import Any

from truenorm.errors import extra
from truenorm.lab.report.look import colours, dashes, shapes


def lines(arms: Sequence[str]) -> dict[str, Any]:
    """Encodings of a line for each arm."""
    with extra("report"):
        import altair as alt

    return {
        "stroke": alt.Stroke("arm:N", scale=alt.Scale(domain=list(arms), range=colours(arms)), legend=_legend()),
        "strokeDash": alt.StrokeDash("arm:N", scale=alt.Scale(domain=list(arms), range=dashes(arms)), legend=_legend()),
    }


def symbols(arms: Sequence[str]) -> dict[str, Any]:
    """Encodings of a symbol for each arm."""
    with extra("report"):
        import altair as alt

    return {
        "fill": alt.Fill("arm:N", scale=alt.Scale(domain=list(arms), range=colours(arms)), legend=_legend()),
        "shape": alt.Shape("arm:N", scale=alt.Scale(domain=list(arms), range=shapes(arms)), legend=_legend()),
    }


def _legend() -> Any:
    """One for lines and symbols, in as many columns as there is room for; a dash would cut its symbols to pieces."""
    with extra("report"):
        import altair as alt

    columns = alt.ExprRef("max(2, floor(width / 125))")
    return alt.Legend(title=None, orient="bottom", columns=columns, symbolStrokeWidth=0)

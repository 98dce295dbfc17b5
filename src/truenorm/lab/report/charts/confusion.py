"""Confusion matrices as maps: torch's default, and where another method has more or less."""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

import altair as alt

from truenorm.lab.report.by_class import by_class
from truenorm.lab.report.charts.encodings import encodings
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import ink, study_looks
from truenorm.lab.report.summary import BASELINE, StudySummary, num_tested
from truenorm.metrics.confusion import Confusion

Cells = Mapping[tuple[int, int], float]
"""(true class, predicted class) → percent of the images of the true class, or points."""

_SHARES = (
    "A row is a true class, a column what its images are predicted as, in percent of the class, mean over seeds. On "
    "the diagonal is what is right: the sensitivity of each class. The stronger the colour, the more (by the square "
    "root: rare errors are seen, too)."
)
_CHANGES = (
    "The difference of two such maps, in points: a cell has the colour of the method that has more there, the stronger "
    "the more. On the diagonal more is better, elsewhere less. Cells are not tested; classes are, in the table."
)
_NO_VIEW = View(title="", rows=())
_LINES = 28
"""A map of many classes is as high as that many lines."""
_NUMBERS = 12
"""Up to that many classes there is room for numbers."""
_STRONG = 0.6
"""From this opacity of a cell on, its number has the colour of the paper."""


def confusion_maps(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Two figures, or none without confusion matrices; no second one where no method differs from the baseline."""
    shares = [_shares_view(summary) for summary in summaries]
    changes = [_changes_view(summary) for summary in summaries]
    arms = list(dict.fromkeys([BASELINE, *(str(row["arm"]) for view in changes for row in view.rows)]))
    legend = alt.Legend(title="more with", orient="top", symbolType="square", symbolStrokeWidth=0)
    by_arm = encodings(study_looks(arms), "color", legend=legend)["color"]
    accent = alt.value(ink("accent"))
    return (
        *figure("confusion", _map("share", "% of the true class", ".2f", " %", accent), _SHARES, shares),
        *figure(
            "confusion-difference", _map("change", "difference, points", "+.2f", " points", by_arm), _CHANGES, changes
        ),
    )


def mean_shares(confusions: Sequence[Confusion]) -> dict[tuple[int, int], float]:
    """(true class, predicted class) → percent of the true class, mean over matrices; classes without images left out.

    Example:
        >>> mean_shares([Confusion(((3, 1), (0, 2))), Confusion(((2, 2), (0, 2)))])
        {(0, 0): 62.5, (0, 1): 37.5, (1, 0): 0.0, (1, 1): 100.0}
    """
    present = [
        (true, [[100 * count / sum(row) for count in row] for row in rows_of_class])
        for true, rows_of_class in enumerate(zip(*(one.counts for one in confusions), strict=True))
        if all(map(any, rows_of_class))
    ]
    return {
        (true, predicted): fmean(values)
        for true, shares in present
        for predicted, values in enumerate(zip(*shares, strict=True))
    }


def _map(field: str, title: str, digits: str, unit: str, colour: Any) -> Any:
    def axis(**options: Any) -> Any:
        return alt.Axis(labelOverlap="greedy", labelLimit=110, **options)

    base = alt.Chart(rows()).encode(
        x=alt.X("predicted:N", sort=None, title="predicted class", axis=axis(labelAngle=-40)),
        y=alt.Y("truth:N", sort=None, title="true class", axis=axis()),
        tooltip=[
            alt.Tooltip("truth:N", title="true class"),
            alt.Tooltip("predicted:N", title="predicted class"),
            alt.Tooltip(f"{field}:Q", title=title, format=digits),
        ],
    )
    spoken = f"datum.truth + ' predicted as ' + datum.predicted + ': ' + format(datum.{field}, '{digits}') + '{unit}'"
    size = alt.ExprRef("width < 400 ? 8 : 10.5")
    paper = alt.when(f"datum.strength > {_STRONG}").then(alt.value(ink("paper"))).otherwise(alt.value(ink("ink")))
    return alt.layer(
        base.transform_calculate(spoken=spoken)
        .mark_rect()
        .encode(color=colour, opacity=alt.Opacity("strength:Q", scale=None), description="spoken:N"),
        base.transform_filter("isValid(datum.text)")
        .mark_text(fontSize=size, aria=False)
        .encode(text="text:N", color=paper),
    )


def _shares_view(summary: StudySummary) -> View:
    confusions = list(summary.confusions_of(BASELINE).values())
    if not confusions:
        return _NO_VIEW
    shares, names = mean_shares(confusions), summary.class_names
    title = f"Confusion matrix of {BASELINE}"
    wrong = {pair: share for pair, share in shares.items() if pair[0] != pair[1] and share > 0}
    if wrong:
        true, predicted = max(wrong, key=lambda pair: wrong[pair])
        title += f"; largest error: {wrong[true, predicted]:.1f} % of {names[true]} predicted as {names[predicted]}"
    drawn = _drawn(names, shares, 100.0, ".1f")
    return _view(title, names, [row | {"share": rounded(share, 4)} for row, share in drawn])


def _changes_view(summary: StudySummary) -> View:
    found = by_class(summary)
    if found is None or not found.methods:
        return _NO_VIEW
    method = found.methods[0]
    old, new = (summary.confusions_of(arm) for arm in (BASELINE, method))
    common = [seed for seed in new if seed in old]
    if not common:
        return _NO_VIEW
    before, after = (mean_shares([of[seed] for seed in common]) for of in (old, new))
    # Two means of the same shares may differ by rounding.
    changes = {pair: round(after[pair] - before[pair], 9) for pair in before if pair in after}
    largest = max(map(abs, changes.values()), default=0.0)
    if not largest:
        return _NO_VIEW
    title = f"Confusion matrix of {method} − {BASELINE}"
    if tested := num_tested(found.differences[method]):
        title += f": F beyond noise in {len(found.beyond[method]) or 'none'} of {tested} classes"
    rows_of_view = [
        row | {"change": rounded(change, 4), "arm": method if change > 0 else BASELINE}
        for row, change in _drawn(summary.class_names, changes, largest, "+.1f")
    ]
    return _view(title, summary.class_names, rows_of_view)


def _view(title: str, names: Sequence[str], drawn: Sequence[Row]) -> View:
    return View(title=title, rows=tuple(drawn), lines=min(len(names), _LINES))


def _drawn(names: Sequence[str], cells: Cells, largest: float, digits: str) -> Iterator[tuple[dict[str, Any], float]]:
    """The cells that are not 0, and the diagonal: it comes first, so that the axes have the classes in their order."""
    for (true, predicted), value in sorted(cells.items(), key=lambda cell: cell[0][0] != cell[0][1]):
        if value or true == predicted:
            # The root makes rare errors visible.
            row: dict[str, Any] = {"truth": names[true], "predicted": names[predicted]}
            row["strength"] = rounded(sqrt(abs(value) / largest), 3)
            yield row | ({"text": f"{value:{digits}}"} if value and len(names) <= _NUMBERS else {}), value

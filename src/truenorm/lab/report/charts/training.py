"""What happened while the network trained: its loss, and how far the statistics were off after each epoch."""

from collections.abc import Sequence
from math import ceil

from truenorm.errors import extra
from truenorm.lab.report.charts.arms import lines, symbols
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.look import marks
from truenorm.lab.report.summary import BASELINE, StudySummary

_SHIFT = (
    "After each epoch, how far the statistics are from those of the data at that time, as a mean over layers; lower is "
    "better. What rises lags behind weights that change fast; what falls has had time to settle."
)
_LOSS = "The loss on the training images, epoch by epoch: a check that each network has trained, and for how long."


def during_training(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Two figures, or those that were recorded."""
    return (
        *_figure(
            "shift-by-epoch", "shift.joint", "Shift over training", "shift, σ, mean over layers", _SHIFT, summaries
        ),
        *_figure("loss-by-epoch", "training_loss", "Training loss", "loss, nats per image", _LOSS, summaries),
    )


def _figure(
    name: str, metric: str, title: str, axis: str, text: str, summaries: Sequence[StudySummary]
) -> tuple[Figure, ...]:
    with extra("report"):
        import altair as alt

    views = [View(title=title, rows=_rows(summary, metric)) for summary in summaries]
    arms = list(dict.fromkeys(str(row["arm"]) for view in views for row in view.rows))
    picked = alt.selection_point(name="picked", fields=["arm"], bind="legend")
    base = alt.Chart(rows()).encode(
        x=alt.X(
            "epoch:Q",
            title="epochs trained",
            axis=alt.Axis(values=_epochs(views), format="d"),
            scale=alt.Scale(zero=False),
        ),
        y=alt.Y("value:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=marks("y")), title=axis),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip=["arm:N", "epoch:Q", alt.Tooltip("value:Q", title=axis), alt.Tooltip("width:Q", title="± 95 %")],
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(**lines(arms)),
        base.mark_point(filled=True, size=40, opacity=1, strokeWidth=0).encode(**symbols(arms)),
    )
    return figure(name, chart.add_params(picked).properties(height=260), text, views)


def _epochs(views: Sequence[View]) -> list[int]:
    """Where the axis has marks: at every epoch, or at about ten of them that end with the last."""
    found = sorted({int(row["epoch"] or 0) for view in views for row in view.rows})
    return found[:: -max(1, ceil(len(found) / 10))][::-1]


def _rows(summary: StudySummary, metric: str) -> tuple[Row, ...]:
    followed = summary.by_epoch(metric)
    if max(map(len, followed.values()), default=0) < 2:
        return ()  # one epoch is no course
    return tuple(
        {"arm": arm, "epoch": epoch, "value": rounded(found.mean, 4), "width": rounded(found.half_width, 2)}
        for arm, epochs in followed.items()
        for epoch, found in sorted(epochs.items())
        if found.mean > 0 and (arm == BASELINE or not arm.startswith("static-"))
    )

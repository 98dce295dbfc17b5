"""What happened while the network trained: its loss, and how far the statistics were off after each epoch."""

from collections.abc import Sequence
from math import ceil

import altair as alt

from truenorm.lab.report.charts.encodings import arm_lines, log_y
from truenorm.lab.report.figure import Figure, Row, View, figure, rounded, rows
from truenorm.lab.report.summary import BASELINE, StudySummary

_SHIFT = (
    "After each epoch, how far the statistics are from those of the data at that time, as a mean over layers; lower is "
    "better. What rises lags behind weights that change fast; what falls has had time to settle."
)
_LOSS = "The loss on the training images, epoch by epoch: a check that each network has trained, and for how long."


def during_training(summaries: Sequence[StudySummary]) -> tuple[Figure, ...]:
    """Two figures, or those that were recorded."""
    shift = [View(title="Shift over training", rows=_rows(summary, "shift.joint")) for summary in summaries]
    loss = [View(title="Training loss", rows=_rows(summary, "training_loss")) for summary in summaries]
    return (
        *_figure("shift-by-epoch", shift, "shift, σ, mean over layers", _SHIFT),
        *_figure("loss-by-epoch", loss, "loss, nats per image", _LOSS),
    )


def _figure(name: str, views: Sequence[View], axis: str, text: str) -> tuple[Figure, ...]:
    arms = list(dict.fromkeys(str(row["arm"]) for view in views for row in view.rows))
    marked = alt.Axis(values=_epochs(views), format="d")
    base = alt.Chart(rows()).encode(
        x=alt.X("epoch:Q", title="epochs trained", axis=marked, scale=alt.Scale(zero=False)),
        tooltip=["arm:N", "epoch:Q", alt.Tooltip("value:Q", title=axis), alt.Tooltip("width:Q", title="± 95 %")],
    )
    chart = arm_lines(base, arms, y=log_y("value:Q", axis), size=40)
    return figure(name, chart.properties(height=260), text, views)


def _epochs(views: Sequence[View]) -> list[int]:
    """Where the axis has marks: at every epoch, or at about ten of them that end with the last."""
    epochs = sorted({int(row["epoch"] or 0) for view in views for row in view.rows})
    return epochs[:: -max(1, ceil(len(epochs) / 10))][::-1]


def _rows(summary: StudySummary, metric: str) -> tuple[Row, ...]:
    followed = summary.by_epoch(metric)
    if max(map(len, followed.values()), default=0) < 2:
        return ()  # one epoch is no course
    return tuple(
        {"arm": arm, "epoch": epoch, "value": rounded(value.mean, 4), "width": rounded(value.half_width, 2)}
        for arm, epochs in followed.items()
        for epoch, value in sorted(epochs.items())
        if value.mean > 0 and (arm == BASELINE or not arm.startswith("static-"))
    )

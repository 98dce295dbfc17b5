"""The answer: how far each layer is off, why, what mending it gives, and what to do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truenorm.doctor.finding import Finding
from truenorm.doctor.step import Step, in_one_line
from truenorm.metrics.intervals import Interval
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table, number, plain

_BAR = 28
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """How far one layer is off, in σ.

    Args:
        layer: its name.
        off: its stored statistics against what arrives at it.
        own: the part that is its own.
        inherited: the part that comes from layers below.
        floor: below it nothing can be told, for the sample is finite; None where that is not known.
        harm: how wrong its output is for its own error, weighted by |γ|; 0 where it is below the floor.
        effect: by how much the network's output moves when this layer alone is mended, in standard deviations of
            the output; None where it was not tried.
    """

    layer: str
    off: float
    own: float
    inherited: float
    floor: float | None
    harm: float
    effect: float | None = None

    @property
    def kl(self) -> float:
        """The same as a Gaussian relative entropy per channel, in nats: S²/2."""
        return self.off**2 / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What `diagnose` found; shows itself in a terminal and in a notebook.

    Args:
        healthy: no alarm: no defect, and no gain beyond its interval.
        verdict: one sentence.
        layers: the most harmful first: by what mending one alone does to the output, else by its weighted error.
        findings: causes, the likeliest first; then notes.
        gains: what each estimate of the statistics gives on held-out samples, by estimate and metric.
        scores: how the network scores as it is, and with the batches' own statistics (as in train()).
        best: the estimate that gains most, "" where the statistics had better be left alone.
        ruled_out: what was looked at and found innocent.
        steps: what to do: a line to run or a sentence each.
        notes: what was looked at: samples, batches, what was skipped.

    Example:
        >>> import torch, truenorm as tn
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> tn.diagnose(net, [torch.randn(64, 2) for _ in range(4)]).findings[0].cause
        'never updated'
    """

    healthy: bool
    verdict: str
    layers: tuple[LayerState, ...]
    findings: tuple[Finding, ...]
    gains: Mapping[str, Mapping[str, Interval]]
    scores: Mapping[str, Mapping[str, float]]
    best: str
    ruled_out: tuple[str, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    @property
    def cause(self) -> str:
        """The likeliest cause; "" where there is none."""
        return next((found.cause for found in self.findings if found.level != "note"), "")

    @property
    def recommendation(self) -> str:
        """The steps in one line."""
        return in_one_line(self.steps)

    def tables(self) -> tuple[Table, ...]:
        """Layers, and what mending them gives."""
        tables: list[Table] = []
        if self.layers:
            longest = max(layer.off for layer in self.layers) or 1.0
            rows = [
                (
                    layer.layer,
                    f"{layer.off:.2f} σ",
                    f"{layer.own:.2f}",
                    f"{layer.inherited:.2f}",
                    "" if layer.floor is None else f"{layer.floor:.2f}",
                    "" if layer.effect is None else f"{layer.effect:.2f}",
                    "█" * max(int(layer.off > 0), round(_BAR * layer.off / longest)),
                )
                for layer in self.layers[:_SHOWN]
            ]
            more = len(self.layers) - len(rows)
            tables.append(
                Table(
                    title="stored statistics against those of the data, the most harmful first",
                    columns=("layer", "off by", "own", "inherited", "noise floor", "moves output by", ""),
                    rows=tuple(rows),
                    notes=(f"and {more} more layers, less harmful",) if more > 0 else (),
                )
            )
        if self.gains:
            metrics = list(next(iter(self.gains.values())))
            rows = [("as it is", *(number(self.scores[""][metric]) for metric in metrics))]
            for name, gain in self.gains.items():
                rows.append((_NAMES[name], *(_told(self.scores[name][m], gain[m]) for m in metrics)))
            if "batch" in self.scores:
                rows.append(("each batch's own, as in train()", *(number(self.scores["batch"][m]) for m in metrics)))
            tables.append(
                Table(
                    title="the same weights with other statistics, on held-out samples",
                    columns=("statistics", *metrics),
                    rows=tuple(rows),
                    notes=("(gain, ± 95 %, paired)",),
                )
            )
        return tuple(tables)

    def lines(self) -> tuple[tuple[str, str], ...]:
        """What is said below the tables: (what, sentence)."""
        first = "harmless" if self.healthy and self.gains else "cause"
        causes = [(first if i == 0 else "also", f.sentence) for i, f in enumerate(self._causes()[:3])]
        notes = [("note", f.sentence) for f in self.findings if f.level == "note"]
        ruled = [("not", "; ".join(self.ruled_out))] if self.ruled_out else []
        about = [("looked", "; ".join(self.notes))] if self.notes else []
        do = [(step.when, step.text) for step in self.steps]
        return (("verdict", self.verdict), *causes, *ruled, *notes, *about, *do)

    def _causes(self) -> list[Finding]:
        return [found for found in self.findings if found.level != "note"]

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        for what, sentence in self.lines():
            grid.add_row(Text(what), Text(sentence, overflow="fold"))
        return Group(*(table.__rich__() for table in self.tables()), grid)

    def __str__(self) -> str:
        """What `print` shows: the same as a terminal."""
        return plain(self)

    def _repr_html_(self) -> str:
        from html import escape

        said = "".join(f"<dt>{escape(what)}</dt><dd>{escape(sentence)}</dd>" for what, sentence in self.lines())
        return "".join(table.to_html() for table in self.tables()) + f"<dl>{said}</dl>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "cause": self.cause,
            "findings": [found.to_dict() for found in self.findings],
            "best": self.best,
            "ruled_out": list(self.ruled_out),
            "recommendation": self.recommendation,
            "notes": list(self.notes),
        }

    def record(self, *, command: str = "truenorm.diagnose") -> Record:
        """The figures as a record: a row per layer and number, a row per score."""
        rows: list[Measurement] = []
        for layer in self.layers:
            for metric, value in (
                ("shift.arriving", layer.off),
                ("shift.own", layer.own),
                ("shift.inherited", layer.inherited),
                ("kl.arriving", layer.kl),
                ("harm", layer.harm),
            ):
                rows.append(Measurement("diagnosis", "stored", layer.layer, metric, value, layer.floor))
            if layer.effect is not None:
                rows.append(Measurement("diagnosis", "stored", layer.layer, "effect", layer.effect))
        for name, scores in self.scores.items():
            rows += [
                Measurement("diagnosis", name or "stored", None, metric, value)
                for metric, value in scores.items()
                if math.isfinite(value)
            ]
        for name, gain in self.gains.items():
            rows += [
                Measurement("diagnosis", name, None, f"gain.{m}", part.mean, (part.half_width or 0.0) / 1.96, part.n)
                for m, part in gain.items()
            ]
        return Record(
            command=command,
            rows=tuple(rows),
            trials={"diagnosis": self.to_dict()},
            versions=installed_versions("truenorm", "torch"),
            machine=this_machine(),
        )


_NAMES = {
    "joint": "joint (pooled, one pass)",
    "within": "joint, mean of the batches' variances",
    "sequential": "sequential (as inference sees it)",
}


def _told(value: float, gain: Interval) -> str:
    width = "" if gain.half_width is None else f" ± {number(gain.half_width, 2)}"
    return f"{number(value)} ({'+' if gain.mean >= 0 else '−'}{number(abs(gain.mean), 2)}{width})"

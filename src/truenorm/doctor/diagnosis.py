"""The answer: how far each layer is off, why, what a repair gives, and what to do."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from truenorm.doctor import words
from truenorm.doctor.finding import Cause, Finding
from truenorm.doctor.outcome import Looked, Outcome, RuledOut
from truenorm.doctor.remedy import Remedy, Step, to_dict
from truenorm.doctor.score import AS_IS
from truenorm.doctor.tables import tables_of
from truenorm.metrics.intervals import Interval
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table, plain

_ACQUITTED = ("harmless", "sound", "no batch norm")
"""Outcomes that say it is not batch norm."""


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
        effect: by how much the network's output moves when this layer alone is repaired, in standard deviations of
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diagnosis:
    """What `diagnose` found; shows itself in a terminal and in a notebook.

    Args:
        outcome: the verdict as a value; `verdict` is its sentence.
        layers: the most harmful first: by what repairing one alone does to the output, else by its weighted error.
        findings: causes, the likeliest first; then notes.
        gains: what each estimate of the statistics gives on held-out samples, by estimate and metric.
        scores: by statistics and metric: "as it is", with each batch's own ("batch", as in train()), each estimate.
        best: the estimate that gains most; None where the statistics had better be left alone.
        ruled_out: what was looked at and is not the fault.
        steps: what to do; `recommendation` is the sentence.
        looked: samples, batches, what was skipped; `notes` are the sentences. None without data.

    Example:
        >>> import torch, truenorm as tn
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> tn.diagnose(net, [torch.randn(64, 2) for _ in range(4)]).findings[0].cause
        'never updated'
    """

    outcome: Outcome
    layers: tuple[LayerState, ...]
    findings: tuple[Finding, ...]
    gains: Mapping[str, Mapping[str, Interval]]
    scores: Mapping[str, Mapping[str, float]]
    best: str | None
    ruled_out: tuple[RuledOut, ...]
    steps: tuple[Step, ...]
    looked: Looked | None

    @property
    def healthy(self) -> bool:
        """No alarm: no defect, and no remedy that does better."""
        return self.outcome.healthy

    @property
    def causes(self) -> tuple[Finding, ...]:
        """The findings that are not notes, the likeliest first."""
        return tuple(finding for finding in self.findings if finding.level != "note")

    @property
    def cause(self) -> Cause | None:
        """The name of the likeliest cause; None where there is none."""
        return self.causes[0].cause if self.causes else None

    @property
    def verdict(self) -> str:
        """The outcome as a sentence."""
        return words.verdict(self.outcome)

    @property
    def recommendation(self) -> str:
        """The steps in one line."""
        return words.in_one_line(self.steps)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was looked at, in sentences."""
        return () if self.looked is None else words.looked(self.looked)

    @property
    def elsewhere(self) -> str:
        """Where to look if it is not batch norm; empty where it is, or nothing tells."""
        return words.ELSEWHERE if self.outcome.kind in _ACQUITTED else ""

    def __repr__(self) -> str:
        """One line."""
        layers = f"{self.outcome.off} of {len(self.layers)} layers off" if self.layers else "no layer measured"
        return f"Diagnosis(healthy={self.healthy}, cause={self.cause!r}, {layers})"

    def tables(self) -> tuple[Table, ...]:
        """Layers, and what repairing them gives."""
        return tables_of(self.rows())

    def lines(self, advice: Callable[[Remedy], str] = words.advice) -> tuple[tuple[str, str], ...]:
        """The sentences below the tables, each with its heading.

        Args:
            advice: makes the sentence of a remedy; Python unless another is given.
        """
        first = "harmless" if self.outcome.kind in ("harmless", "sound") else "cause"
        causes = [(first if i == 0 else "also", f.sentence) for i, f in enumerate(self.causes[:3])]
        notes = [("note", f.sentence) for f in self.findings if f.level == "note"]
        ruled_out = [("not", "; ".join(map(words.ruled_out, self.ruled_out)))] if self.ruled_out else []
        elsewhere = [("else", self.elsewhere)] if self.elsewhere else []
        looked = [("looked", "; ".join(self.notes))] if self.notes else []
        steps = [(step.when, advice(step.remedy)) for step in self.steps]
        return (("verdict", self.verdict), *causes, *ruled_out, *elsewhere, *notes, *looked, *steps)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        for heading, sentence in self.lines():
            grid.add_row(Text(heading), Text(sentence, overflow="fold"))
        return Group(*(table.__rich__() for table in self.tables()), grid)

    def __str__(self) -> str:
        """What `print` shows: the same as a terminal."""
        return plain(self)

    def _repr_html_(self) -> str:
        from html import escape

        sentences = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in self.lines())
        return "".join(table.to_html() for table in self.tables()) + f"<dl>{sentences}</dl>"

    def to_dict(self, advice: Callable[[Remedy], str] = words.advice) -> dict[str, Any]:
        """Plain values, and their sentences."""
        return {
            "healthy": self.healthy,
            "verdict": self.verdict,
            "outcome": _plain(asdict(self.outcome)),
            "cause": self.cause,
            "findings": [finding.to_dict() for finding in self.findings],
            "best": self.best,
            "ruled_out": [
                {"what": part.what, "changes": dict(part.changes), "sentence": words.ruled_out(part)}
                for part in self.ruled_out
            ],
            "elsewhere": self.elsewhere,
            "steps": [
                {"when": step.when, "remedy": to_dict(step.remedy), "sentence": advice(step.remedy)}
                for step in self.steps
            ],
            "recommendation": words.in_one_line(self.steps, advice),
            "looked": None if self.looked is None else _plain(asdict(self.looked)),
            "notes": list(self.notes),
        }

    def rows(self) -> tuple[Measurement, ...]:
        """The figures: a row per layer and number, a row per score."""
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
                Measurement("diagnosis", "stored" if name == AS_IS else name, None, metric, value)
                for metric, value in scores.items()
                if math.isfinite(value)
            ]
        for name, gain in self.gains.items():
            rows += [
                Measurement("diagnosis", name, None, f"gain.{m}", part.mean, (part.half_width or 0.0) / 1.96, part.n)
                for m, part in gain.items()
            ]
        return tuple(rows)

    def record(self, *, command: str = "truenorm.diagnose", advice: Callable[[Remedy], str] = words.advice) -> Record:
        """A record: the figures, and `to_dict` as its trial."""
        return Record(
            command=command,
            rows=self.rows(),
            trials={"diagnosis": self.to_dict(advice)},
            versions=installed_versions("truenorm", "torch"),
            machine=this_machine(),
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """With lists for tuples, as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

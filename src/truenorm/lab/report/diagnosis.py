"""A record of `truenorm diagnose`, parsed once, as tables, lines and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from truenorm.errors import InvalidRecord
from truenorm.lab.report.charts.diagnosis import error_by_layer
from truenorm.lab.report.page import Section, Tables, page
from truenorm.record import Measurement, Record, typed
from truenorm.show import Table, number

_TRIAL = "diagnosis"
_BEFORE = ("stored", "as it is")
"""Names of the arm that is the network as it is."""
_LAYERS = {"off by": "shift.arriving", "own": "shift.own", "inherited": "shift.inherited", "moves output by": "effect"}
_SHOWN, _BAR, _MOST_CAUSES = 12, 28, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSentence:
    """A finding, a cause that was ruled out, or a step.

    Args:
        sentence: in words.
        level: of a finding: defect, cause or note.
        when: of a step: do, then or later.
    """

    sentence: str
    level: str = "cause"
    when: str = "do"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDiagnosis:
    """What the header holds of a diagnosis, apart from its numbers.

    Args:
        healthy: nothing is wrong.
        verdict: one sentence.
        findings: causes, the likeliest first, and notes.
        ruled_out: causes that were checked and excluded.
        steps: what to do.
        recommendation: the steps in one line; records without steps hold it alone.
        notes: what was measured: samples, batches.
    """

    healthy: bool
    verdict: str
    findings: tuple[RecordedSentence, ...] = ()
    ruled_out: tuple[RecordedSentence | str, ...] = ()
    steps: tuple[RecordedSentence, ...] = ()
    recommendation: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisRecord:
    """A record of a diagnosis.

    Args:
        record: of `truenorm diagnose`, or of `Diagnosis.record()`.
        diagnosis: what its header says.
    """

    record: Record
    diagnosis: RecordedDiagnosis

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(what, sentence), as `truenorm diagnose` prints them."""
        said = self.diagnosis
        causes = [finding.sentence for finding in said.findings if finding.level != "note"][:_MOST_CAUSES]
        first = (
            "harmless" if said.healthy and any(row.metric.startswith("gain.") for row in self.record.rows) else "cause"
        )
        ruled_out = [part if isinstance(part, str) else part.sentence for part in said.ruled_out]
        joined = (("not", ruled_out), ("looked", said.notes))
        excluded, looked = ([(what, "; ".join(parts))] if parts else [] for what, parts in joined)
        steps = [(step.when, step.sentence) for step in said.steps] or [("do", said.recommendation)]
        return (
            ("verdict", said.verdict),
            *(("also" if place else first, sentence) for place, sentence in enumerate(causes)),
            *excluded,
            *(("note", finding.sentence) for finding in said.findings if finding.level == "note"),
            *looked,
            *(step for step in steps if step[1]),
        )


def is_of_a_diagnosis(record: Record) -> bool:
    """Whether a record is one of `truenorm diagnose`.

    Example:
        >>> is_of_a_diagnosis(Record(command="", trials={"diagnosis": {"verdict": "healthy"}}))
        True
    """
    return _TRIAL in record.trials


def read_diagnosis(record: Record) -> DiagnosisRecord:
    """Parse a record of a diagnosis.

    Raises:
        InvalidRecord: it is of another command, or its header is damaged.

    Example:
        >>> trials = {"diagnosis": {"healthy": True, "verdict": "nothing is wrong"}}
        >>> read_diagnosis(Record(command="", trials=trials)).lines
        (('verdict', 'nothing is wrong'),)
    """
    if not is_of_a_diagnosis(record):
        raise InvalidRecord("the record holds no diagnosis; is it one of truenorm diagnose?")
    return DiagnosisRecord(record=record, diagnosis=typed(record.trials[_TRIAL], RecordedDiagnosis, _TRIAL))


def diagnosis_tables(diagnosis: DiagnosisRecord) -> tuple[Table, ...]:
    """The layers, and the scores with other statistics; each where it was measured."""
    rows = diagnosis.record.rows
    return (*_layers(rows), *_scores(rows))


def diagnosis_conclusion(diagnosis: DiagnosisRecord) -> str:
    """The lines below the tables."""
    margin = max(len(what) for what, _ in diagnosis.lines) + 2
    return "\n".join(f"{what:{margin}}{sentence}" for what, sentence in diagnosis.lines)


def diagnosis_page(diagnosis: DiagnosisRecord) -> str:
    """The page of a diagnosis: the verdict, the causes and what to do, and each layer's error.

    Raises:
        MissingExtra: what draws is not installed.
    """
    (_, verdict), *lines = diagnosis.lines
    record = diagnosis.record
    tables = diagnosis_tables(diagnosis)
    parts = (*error_by_layer(record), *((Tables(views=(tables,)),) if tables else ()))
    return page(
        f"diagnosis of {model}" if (model := record.configuration.get("model")) else "diagnosis",
        verdict[:1].upper() + verdict[1:],
        Section(heading="Why, and what to do", lines=tuple(lines)),
        *((Section(heading="Layer by layer", parts=parts),) if parts else ()),
        record=record,
    )


def _layers(rows: Sequence[Measurement]) -> tuple[Table, ...]:
    layers: dict[str, dict[str, Measurement]] = {}
    for row in rows:
        if row.layer is not None:
            layers.setdefault(row.layer, {})[row.metric] = row
    offs = [measured["shift.arriving"].value for measured in layers.values() if "shift.arriving" in measured]
    if not offs:
        return ()
    longest = max(offs) or 1.0

    def cells(measured: Mapping[str, Measurement]) -> tuple[str, ...]:
        off, *others = (f"{measured[m].value:.2f}" if m in measured else "" for m in _LAYERS.values())
        arriving = measured.get("shift.arriving")
        floor = "" if arriving is None or arriving.error is None else f"{arriving.error:.2f}"
        bar = 0 if arriving is None else max(int(arriving.value > 0), round(_BAR * arriving.value / longest))
        own, inherited, effect = others
        return (f"{off} σ" if off else "", own, inherited, floor, effect, "█" * bar)

    more = len(layers) - _SHOWN
    return (
        Table(
            title="stored statistics against those of the data, the most harmful first",
            columns=("layer", "off by", "own", "inherited", "noise floor", "moves output by", ""),
            rows=tuple((layer, *cells(measured)) for layer, measured in list(layers.items())[:_SHOWN]),
            notes=(f"and {more} more layers, less harmful",) if more > 0 else (),
        ),
    )


def _scores(rows: Sequence[Measurement]) -> tuple[Table, ...]:
    arms: dict[str, dict[str, Measurement]] = {}
    for row in rows:
        if row.layer is None:
            arms.setdefault(row.arm, {})[row.metric] = row
    metrics = dict.fromkeys(m.removeprefix("gain.") for arm in arms.values() for m in arm if m.startswith("gain."))
    if not metrics:
        return ()

    def cell(arm: Mapping[str, Measurement], metric: str) -> str:
        score, gain = arm.get(metric), arm.get(f"gain.{metric}")
        if score is None:
            return ""
        return number(score.value) + (f" ({_signed(gain)})" if gain is not None else "")

    before = [arm for arm in _BEFORE if arm in arms]
    names = [*before, *(arm for arm in arms if arm not in (*before, "batch")), *(["batch"] if "batch" in arms else [])]
    return (
        Table(
            title="the same weights with other statistics, on held-out samples",
            columns=("statistics", *metrics),
            rows=tuple((_NAMES.get(name, name), *(cell(arms[name], metric) for metric in metrics)) for name in names),
            notes=("(gain, ± 95 %, paired)",),
        ),
    )


_NAMES: Mapping[str, str] = {
    "stored": "as it is",
    "joint": "joint (pooled, one pass)",
    "within": "joint, mean of the batches' variances",
    "sequential": "sequential (as inference sees it)",
    "batch": "each batch's own, as in train()",
}


def _signed(gain: Measurement) -> str:
    """A gain with its 95 % interval; a record holds the interval's standard error."""
    width = f" ± {number(1.96 * gain.error, 2)}" if gain.error else ""
    return f"{'+' if gain.value >= 0 else '−'}{number(abs(gain.value), 2)}{width}"

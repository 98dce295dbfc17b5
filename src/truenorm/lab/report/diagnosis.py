"""A record of `truenorm diagnose`, parsed once, as tables, lines and a page."""

from dataclasses import dataclass

from truenorm.doctor.tables import tables_of
from truenorm.errors import InvalidRecord, extra
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.page import Section, Tables, page
from truenorm.record import Record, typed

_TRIAL = "diagnosis"


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
class RecordedOutcome:
    """The verdict as a value: its kind, see `OutcomeKind`."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDiagnosis:
    """What the header holds of a diagnosis, apart from its numbers.

    Args:
        healthy: nothing is wrong.
        verdict: one sentence.
        outcome: the same as a value; None in records that hold the sentence alone.
        findings: causes, the likeliest first, and notes.
        ruled_out: causes that were checked and excluded.
        elsewhere: where to look if it is not batch norm.
        steps: what to do.
        recommendation: the steps in one line; records without steps hold it alone.
        notes: what was measured: samples, batches.
    """

    healthy: bool
    verdict: str
    outcome: RecordedOutcome | None = None
    findings: tuple[RecordedSentence, ...] = ()
    ruled_out: tuple[RecordedSentence | str, ...] = ()
    elsewhere: str = ""
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
        diagnosis = self.diagnosis
        causes = [finding.sentence for finding in diagnosis.findings if finding.level != "note"]
        harmless = (
            diagnosis.healthy and any(row.metric.startswith("gain.") for row in self.record.rows)
            if diagnosis.outcome is None
            else diagnosis.outcome.kind in ("harmless", "sound")
        )
        ruled_out = [cause if isinstance(cause, str) else cause.sentence for cause in diagnosis.ruled_out]
        lines = [
            *zip(("harmless" if harmless else "cause", "also", "also"), causes, strict=False),  # the likeliest three
            ("not", "; ".join(ruled_out)),
            ("else", diagnosis.elsewhere),
            *(("note", finding.sentence) for finding in diagnosis.findings if finding.level == "note"),
            ("looked", "; ".join(diagnosis.notes)),
            *([(step.when, step.sentence) for step in diagnosis.steps] or [("do", diagnosis.recommendation)]),
        ]
        return (("verdict", diagnosis.verdict), *((what, sentence) for what, sentence in lines if sentence))


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


def diagnosis_conclusion(diagnosis: DiagnosisRecord) -> str:
    """The lines below the tables."""
    margin = max(len(what) for what, _ in diagnosis.lines) + 2
    return "\n".join(f"{what:{margin}}{sentence}" for what, sentence in diagnosis.lines)


def diagnosis_figures(diagnosis: DiagnosisRecord) -> tuple[Figure, ...]:
    """The chart of the page, where a layer was measured."""
    with extra("report"):
        from truenorm.lab.report.charts.diagnosis import error_by_layer

    return error_by_layer(diagnosis.record)


def diagnosis_page(diagnosis: DiagnosisRecord) -> str:
    """The page of a diagnosis: the verdict, the causes and what to do, and each layer's error.

    Raises:
        MissingExtra: what draws is not installed.
    """
    (_, verdict), *lines = diagnosis.lines
    record = diagnosis.record
    tables = tables_of(record.rows)
    parts = (*diagnosis_figures(diagnosis), *((Tables(views=(tables,)),) if tables else ()))
    return page(
        f"diagnosis of {model}" if (model := record.configuration.get("model")) else "diagnosis",
        verdict[:1].upper() + verdict[1:],
        Section(heading="Why, and what to do", lines=tuple(lines)),
        *((Section(heading="Layer by layer", parts=parts),) if parts else ()),
        record=record,
    )

"""What a record has to show, whatever command it is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truenorm.doctor.tables import tables_of
from truenorm.lab.report.charts.diagnosis import error_by_layer
from truenorm.lab.report.claims.page import claims_figures, claims_page
from truenorm.lab.report.claims.record import ClaimsRecord, is_of_claims, read_claims
from truenorm.lab.report.claims.table import ClaimsTable, claims_conclusion
from truenorm.lab.report.diagnosis import (
    DiagnosisRecord,
    diagnosis_conclusion,
    diagnosis_page,
    is_of_a_diagnosis,
    read_diagnosis,
)
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.study import study_page, study_sections
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import StudySummary, summaries
from truenorm.lab.report.tables import study_conclusion, study_tables
from truenorm.record import Record
from truenorm.show import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A record's tables, and how to have what takes longer.

    Args:
        tables: for the terminal.
        conclusion: what they say.
        page: gives its page; needs what draws.
        figures: gives its charts, and the labels of the settings that they have views of; needs the same.
    """

    tables: Sequence[Table | ClaimsTable]
    conclusion: str
    page: Callable[[], str]
    figures: Callable[[], tuple[Sequence[Figure], Sequence[str]]]


def shown(record: Record) -> Shown:
    """What there is to show, by what the record is of; the record is parsed once.

    Raises:
        InvalidRecord: it is of no command that shows records, or damaged.
    """
    if is_of_claims(record):
        return _claims(read_claims(record))
    if is_of_a_diagnosis(record):
        return _diagnosis(read_diagnosis(record))
    return _study(summaries(read_study(record)))


def _claims(claims: ClaimsRecord) -> Shown:
    return Shown(
        tables=(ClaimsTable(claims=claims),),
        conclusion=claims_conclusion(claims),
        page=lambda: claims_page(claims),
        figures=lambda: (claims_figures(claims), ("",)),
    )


def _diagnosis(diagnosis: DiagnosisRecord) -> Shown:
    return Shown(
        tables=tables_of(diagnosis.record.rows),
        conclusion=diagnosis_conclusion(diagnosis),
        page=lambda: diagnosis_page(diagnosis),
        figures=lambda: (error_by_layer(diagnosis.record), ("",)),
    )


def _study(settings: Sequence[StudySummary]) -> Shown:
    def figures() -> tuple[Sequence[Figure], Sequence[str]]:
        drawn = [each for section in study_sections(settings) for each in section.figures]
        return drawn, [summary.setting.label for summary in settings]

    return Shown(
        tables=study_tables(settings),
        conclusion=study_conclusion(settings),
        page=lambda: study_page(settings),
        figures=figures,
    )

"""What a record has to show, whatever command it is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truenorm.doctor.tables import tables_of
from truenorm.lab.report.claims.page import claims_figures, claims_page
from truenorm.lab.report.claims.record import is_of_claims, read_claims
from truenorm.lab.report.claims.table import ClaimsTable, claims_conclusion
from truenorm.lab.report.class_tables import class_tables
from truenorm.lab.report.diagnosis import (
    diagnosis_conclusion,
    diagnosis_figures,
    diagnosis_page,
    is_of_a_diagnosis,
    read_diagnosis,
)
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.study import study_figures, study_page
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries
from truenorm.lab.report.tables import study_conclusion, study_tables
from truenorm.record import Record
from truenorm.show import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A record's tables, and how to have what takes longer.

    Args:
        tables: for the terminal.
        conclusion: what they say.
        by_class: gives tables of single classes; None where the record is of no study.
        page: gives its page; needs what draws.
        figures: gives its charts, and the labels of the settings that they have views of; needs the same.
    """

    tables: Sequence[Table | ClaimsTable]
    conclusion: str
    by_class: Callable[[], Sequence[Table]] | None = None
    page: Callable[[], str]
    figures: Callable[[], tuple[Sequence[Figure], Sequence[str]]]


def shown(record: Record) -> Shown:
    """What there is to show, by what the record is of; the record is parsed once.

    Raises:
        InvalidRecord: it is of no command that shows records, or damaged.
    """
    if is_of_claims(record):
        claims = read_claims(record)
        return Shown(
            tables=(ClaimsTable(claims=claims),),
            conclusion=claims_conclusion(claims),
            page=lambda: claims_page(claims),
            figures=lambda: (claims_figures(claims), ("",)),
        )
    if is_of_a_diagnosis(record):
        diagnosis = read_diagnosis(record)
        return Shown(
            tables=tables_of(record.rows),
            conclusion=diagnosis_conclusion(diagnosis),
            page=lambda: diagnosis_page(diagnosis),
            figures=lambda: (diagnosis_figures(diagnosis), ("",)),
        )
    settings = summaries(read_study(record))
    return Shown(
        tables=study_tables(settings),
        conclusion=study_conclusion(settings),
        by_class=lambda: class_tables(settings),
        page=lambda: study_page(settings),
        figures=lambda: (study_figures(settings), [summary.setting.label for summary in settings]),
    )

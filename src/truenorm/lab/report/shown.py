"""What a record has to show, whatever command it is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truenorm.lab.report.claims.judged import is_of_claims, judged
from truenorm.lab.report.claims.page import claims_figures, claims_page
from truenorm.lab.report.claims.table import ClaimsTable, claims_conclusion
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.study import study_page, study_sections
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
        page: gives its page; needs what draws.
        figures: gives its charts, and the labels of the settings that they have views of; needs the same.
    """

    tables: Sequence[Table | ClaimsTable]
    conclusion: str
    page: Callable[[], str]
    figures: Callable[[], tuple[Sequence[Figure], Sequence[str]]]


def shown(record: Record) -> Shown:
    """What there is to show, by what the record is of.

    Raises:
        InvalidRecord: it is of no command that shows records, or damaged.
    """
    return _claims(record) if is_of_claims(record) else _study(record)


def _claims(record: Record) -> Shown:
    found = judged(record)
    return Shown(
        tables=(ClaimsTable(judged=found),),
        conclusion=claims_conclusion(found),
        page=lambda: claims_page(record),
        figures=lambda: (claims_figures(found), ("",)),
    )


def _study(record: Record) -> Shown:
    def figures() -> tuple[Sequence[Figure], Sequence[str]]:
        found = summaries(record)
        drawn = [one for section in study_sections(found) for one in section.figures]
        return drawn, [summary.chosen.label for summary in found]

    return Shown(
        tables=study_tables(record),
        conclusion=study_conclusion(record),
        page=lambda: study_page(record),
        figures=figures,
    )

"""A diagnosis as a page."""

from collections.abc import Sequence

from truenorm.lab.report.charts.diagnosis import error_by_layer
from truenorm.lab.report.page import Section, Tables, page
from truenorm.record import Record
from truenorm.show import Table


def diagnosis_page(title: str, record: Record, tables: Sequence[Table], lines: Sequence[tuple[str, str]]) -> str:
    """The page of `truenorm diagnose`: the verdict, each layer's error, the tables, and what to do.

    Args:
        title: of what it is the diagnosis.
        record: of the diagnosis, with the command that made it.
        tables: what the terminal shows.
        lines: (what, sentence), as the terminal shows them; the verdict is the headline.

    Raises:
        MissingExtra: what draws is not installed.
    """
    verdict = dict(lines)["verdict"]
    return page(
        title,
        verdict[:1].upper() + verdict[1:],
        Section(heading="Why, and what to do", lines=tuple(line for line in lines if line[0] != "verdict")),
        Section(heading="Layer by layer", parts=(*error_by_layer(record), Tables(views=(tuple(tables),)))),
        record=record,
    )

"""A diagnosis as a page."""

from collections.abc import Sequence

from truenorm.lab.report.charts.diagnosis import error_by_layer
from truenorm.lab.report.page import Section, Tables, page
from truenorm.record import Record
from truenorm.show import Table


def diagnosis_page(
    title: str, record: Record, *, verdict: str, tables: Sequence[Table], lines: Sequence[tuple[str, str]]
) -> str:
    """The page of `truenorm diagnose`: the verdict, each layer's error, the tables, and what to do.

    Args:
        title: names what was diagnosed.
        record: of the diagnosis, with the command that made it.
        verdict: the headline.
        tables: the tables of the terminal.
        lines: the sentences below them, each with its heading, without the verdict.

    Raises:
        MissingExtra: what draws is not installed.
    """
    return page(
        title,
        verdict[:1].upper() + verdict[1:],
        Section(heading="Why, and what to do", lines=tuple(lines)),
        Section(heading="Layer by layer", parts=(*error_by_layer(record), Tables(views=(tuple(tables),)))),
        record=record,
    )

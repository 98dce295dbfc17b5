"""`truenorm report`."""

from pathlib import Path

from truenorm.record import Record


def report(record: Path, /) -> None:
    """Print the tables of a record again.

    Args:
        record: a record.json, or the folder that holds one.
    """
    show(Record.load(record))


def show(record: Record) -> None:
    """Print a study's tables and, last, what they say."""
    from truenorm.cli.terminal import console
    from truenorm.report.summary import StudySummary, conclusion
    from truenorm.report.tables import study_tables

    output = console()
    for table in study_tables(record):
        output.print(table)
    output.print(conclusion(StudySummary(record)))

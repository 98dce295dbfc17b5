"""What the documents show is what the records say."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from truenorm.cli.terminal import WIDE
from truenorm.record import Record
from truenorm.report.summary import StudySummary, conclusion
from truenorm.report.tables import study_tables

RESULTS = sorted(path.parent for path in (Path(__file__).parents[1] / "docs" / "results").glob("*/record.json"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_the_table_beside_a_record_is_made_from_it(folder):
    record = Record.load(folder)
    assert record.complete
    assert record.command.endswith(f"--out docs/results/{folder.name}")
    output = Console(file=io.StringIO(), width=WIDE, highlight=False)
    for table in study_tables(record):
        output.print(table)
    output.print(conclusion(StudySummary(record)))
    assert output.file.getvalue() == (folder / "table.txt").read_text()


def test_there_are_results():
    assert len(RESULTS) >= 5

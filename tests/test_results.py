"""What the documents show is what the records say."""

import io
import runpy
import sys
from pathlib import Path

import pytest
from rich.console import Console

from truenorm.cli.terminal import WIDE
from truenorm.record import Record
from truenorm.report.tables import study_conclusion, study_tables

ROOT = Path(__file__).parents[1]
RESULTS = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/record.json"))
EXPERIMENTS = {"broken-models": "doctor.py", "small-batches": "small_batches.py"}


def test_the_table_of_an_experiment_is_made_from_its_record():
    for name, script in EXPERIMENTS.items():
        record = Record.load(ROOT / "docs" / "results" / name)
        assert record.complete
        assert record.command == f"python experiments/{script} --out docs/results/{name}"
        sys.path.insert(0, str(ROOT / "experiments"))  # as it is when a script runs
        made = runpy.run_path(str(ROOT / "experiments" / script))["printed"](record)
        assert made == (ROOT / "docs" / "results" / name / "table.txt").read_text()


@pytest.mark.parametrize(
    "folder", [one for one in RESULTS if one.name not in EXPERIMENTS], ids=lambda folder: folder.name
)
def test_the_table_beside_a_record_is_made_from_it(folder):
    record = Record.load(folder)
    assert record.complete
    assert record.command.endswith(f"--out docs/results/{folder.name}")
    output = Console(file=io.StringIO(), width=WIDE, highlight=False)
    for table in study_tables(record):
        output.print(table)
    output.print(study_conclusion(record))
    assert output.file.getvalue() == (folder / "table.txt").read_text()


def test_there_are_results():
    assert len(RESULTS) >= 5

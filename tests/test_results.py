"""What the documents show is what the records say."""

import runpy
import sys
from pathlib import Path

import pytest
from markupsafe import escape

from truenorm.lab.report.claims.record import read_claims
from truenorm.record import Record

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "results"
RESULTS = sorted(str(path.parent.relative_to(PLACE)) for path in PLACE.glob("**/record.json"))
EXPERIMENTS = {
    "accuracy": "accuracy.py",
    "badly-shuffled": "badly_shuffled.py",
    "broken-models": "doctor.py",
    "healthy-networks": "doctor.py",
    "hunt": "hunt.py",
    "small-batches": "small_batches.py",
    "verdicts": "verdicts.py",
}
CLAIMS = [*(name for name in RESULTS if name.startswith("claims/")), "hunt"]


def test_the_table_of_an_experiment_is_made_from_its_record():
    for name, script in EXPERIMENTS.items():
        record = Record.load(ROOT / "docs" / "results" / name)
        assert record.complete
        assert record.command.startswith(f"python experiments/{script} ")
        assert record.command.endswith(f" --out docs/results/{name}")
        sys.path.insert(0, str(ROOT / "experiments"))  # as it is when a script runs
        made = runpy.run_path(str(ROOT / "experiments" / script))["printed"](record)
        assert made == (ROOT / "docs" / "results" / name / "table.txt").read_text()


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in EXPERIMENTS])
def test_the_table_beside_a_record_is_made_from_it(name, shown_of):
    record = Record.load(PLACE / name)
    assert record.complete
    assert record.command.endswith(f"--out docs/results/{name}")
    assert shown_of(PLACE / name) == (PLACE / name / "table.txt").read_text()


@pytest.mark.parametrize("name", CLAIMS)
def test_the_page_beside_a_record_of_claims_is_made_from_it(name):
    page = (PLACE / name / "report.html").read_text()
    for verdict in read_claims(Record.load(PLACE / name)).verdicts:
        assert f'id="claim-{verdict.claim.name}"' in page
        assert escape(verdict.claim.hypothesis) in page
        assert escape(verdict.elsewhere) in page


def test_there_are_results():
    assert len(RESULTS) >= 5

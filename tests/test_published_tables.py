"""Every table of README.md and docs/ is made from its record, row by row, or has no figures."""

import re
import sys
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import only_summary
from truenorm.record import Record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from marked import EXPLAINS, TRANSCRIPT, blocks, replaced  # noqa: E402  # once docs/ is on the path
from tables import DOCUMENTS, TABLES, published  # noqa: E402  # likewise

FIGURES = re.compile(
    r"""±                    # an interval
    | \d\d\.\d             # 74.53
    | \d\.\d{3}            # a ratio, 1.008
    | \d\.\d+\s?%          # 0.5%
    | \d\ \(\S+\ to\       # 1.3 (0.63 to 2.8)
    | \d\ of\ \d           # 110 of 126
    | \|\ [+−-]?\d+\.\d+\ \|  # a cell that is a number
    """,
    re.VERBOSE,
)
"""The forms in which measured figures stand in tables."""

SHOWN_BY_A_RUN = "First minute"
"""The section of README.md whose output `test_examples.py` compares with a run of the command."""


@pytest.fixture(scope="module")
def made():
    return {name: make() for name, make in TABLES.items()}


def problems(text, made):
    """What a reader could not trust, in a sentence each."""
    found = []
    for block in blocks(text):
        place = f"line {block.start + 1}"
        if block.name is not None:
            if block.name not in made:
                found.append(f"{place}: nothing makes a table {block.name!r}")
            elif block.lines != made[block.name]:
                found.append(f"{place}: table {block.name!r} is not what its record gives; make tables")
        elif block.marker == EXPLAINS:
            if FIGURES.search("\n".join(block.lines)):
                found.append(f"{place}: a table without figures has some")
        elif not block.lines[0].startswith("```"):
            found.append(f"{place}: a table without a marker")
        elif not block.marker.startswith(TRANSCRIPT) and block.section != SHOWN_BY_A_RUN:
            found.append(f"{place}: a table of the terminal without a marker")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_a_document(path, made):
    assert problems(path.read_text(), made) == []


def test_every_table_is_published_once():
    named = [block.name for path in DOCUMENTS for block in blocks(path.read_text()) if block.name]
    assert sorted(named) == sorted(TABLES)


def test_a_row_that_is_removed_from_any_table_is_missed(made):
    for path in DOCUMENTS:
        text = path.read_text()
        for block in (block for block in blocks(text) if block.name):
            fence = 1 if block.lines[0] == "```" else 0
            for row in range(fence, len(block.lines) - fence):
                without = block.lines[:row] + block.lines[row + 1 :]
                assert problems(replaced(text, block, without), made), (path, block.lines[row])


def test_a_table_that_is_changed_loses_its_marker_or_gets_figures_is_noticed(made):
    text = (ROOT / "docs" / "results" / "README.md").read_text()
    assert problems(text.replace("| 74.53 ± 7.19 |", "| 84.53 ± 7.19 |"), made)
    assert problems(text.replace("<!-- table: matrix -->", ""), made)
    assert problems(text.replace("<!-- table: matrix -->", "<!-- table without figures -->"), made)
    assert problems(text.replace("<!-- table: matrix -->", "<!-- table: unknown -->"), made)
    readme = (ROOT / "README.md").read_text()
    assert problems(readme.replace("<!-- table: claims-in-short -->", ""), made)


def test_no_published_table_could_pass_as_one_without_figures(made):
    words = {"claims"}  # verdicts
    assert [name for name, lines in made.items() if not FIGURES.search("\n".join(lines))] == sorted(words)


def test_the_methods_that_a_table_must_have():
    """All of torch's, all near the best, the best of the sweep: a row that does not suit is there, too."""
    cosine = only_summary(read_study(Record.load(ROOT / "docs" / "results" / "mnist-batch-4-cosine")))
    assert published(cosine) == snapshot(
        (
            "static-0.1",
            "static-0.33",
            "cumulative",
            "dmbn-pooled",
            "pooled-0.1",
            "last-epoch",
            "adaptive",
            "update_bn",
            "recalibrated",
        )
    )
    assert set(published(cosine, ("dmbn",))) - set(published(cosine)) == {"dmbn"}
    shown = {block.name: "\n".join(block.lines) for path in DOCUMENTS for block in blocks(path.read_text())}
    assert all(f"`{arm}`" in shown["mnist-batch-4"] for arm in (*published(cosine), *cosine.networks))
    assert "`momentum=None`" in shown["mnist-batch-4-in-words"] and "momentum 0.33" in shown["mnist-batch-4-in-words"]

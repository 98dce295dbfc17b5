"""`truenorm report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from truenorm.errors import InvalidInput
from truenorm.record import Record

if TYPE_CHECKING:
    from truenorm.lab.report.claims.table import ClaimsTable
    from truenorm.lab.report.figure import Figure
    from truenorm.lab.report.shown import Shown
    from truenorm.show import Table


def report(
    record: Path,
    /,
    *others: Path,
    out: Path | None = None,
    svg: Path | None = None,
    per_class: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Print the tables of a record again and draw its page; of several records, side by side.

    Args:
        record: a record.json, or the folder that holds one.
        others: more records, each compared with the first.
        out: the page; else report.html beside the record, or in this folder for several.
        svg: folder to write each chart to as an SVG file.
        per_class: print a study's scores of each class, too.
    """
    if not others:
        _draw(record, out or (record if record.is_dir() else record.parent) / "report.html", svg, per_class)
    elif per_class:
        raise InvalidInput(
            f"--per-class shows the classes of one record, and {1 + len(others)} are given; draw it alone"
        )
    else:
        _compare([record, *others], out or Path("report.html"), svg)


def _draw(path: Path, out: Path, svg: Path | None, per_class: bool) -> None:
    from truenorm.lab.report.shown import shown

    showing = shown(Record.load(path))
    print_shown(showing, per_class=per_class)
    if svg is not None:
        figures, labels = showing.figures()
        _write_svgs(figures, svg, labels)
    _write_page(showing.page(), out)


def _compare(paths: Sequence[Path], out: Path, svg: Path | None) -> None:
    from truenorm.lab.report.claims.record import is_of_claims
    from truenorm.lab.report.comparison import (
        Comparison,
        comparison_conclusion,
        comparison_figures,
        comparison_page,
        comparison_table,
    )
    from truenorm.lab.report.diagnosis import is_of_a_diagnosis

    records = {name: Record.load(path) for name, path in _named(paths).items()}
    for name, record in records.items():
        for kind, of_kind in (("claims", is_of_claims), ("a diagnosis", is_of_a_diagnosis)):
            if of_kind(record):
                raise InvalidInput(
                    f"{name} is a record of {kind}; side by side stand records of studies: draw it alone"
                )
    comparison = Comparison(records)
    print_tables([comparison_table(comparison)], comparison_conclusion(comparison))
    if svg is not None:
        _write_svgs(comparison_figures(comparison), svg, [""])
    _write_page(comparison_page(comparison), out)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Records by the name of their folder, or by their whole path where these are not different."""
    files = [(path / "record.json" if path.is_dir() else path).resolve() for path in paths]
    for place, file in enumerate(files):
        if file in files[:place]:
            raise InvalidInput(f"{paths[place]} is given twice; a record side by side with itself says nothing")
    names = [file.parent.name if file.name == "record.json" else file.stem for file in files]
    different = all(names) and len(set(names)) == len(names)
    return dict(zip(names if different else map(str, paths), paths, strict=True))


def print_shown(showing: "Shown", *, per_class: bool) -> None:
    """Print the tables of a record, those of its classes if they are asked for, and what they say.

    Raises:
        InvalidInput: classes are asked for, and the record is of no study.
    """
    tables = [*showing.tables]
    if per_class:
        if showing.by_class is None:
            raise InvalidInput("--per-class shows the classes of a study, and this record is of another command")
        tables += showing.by_class()
    print_tables(tables, showing.conclusion)


def print_tables(tables: "Sequence[Table | ClaimsTable]", sentence: str) -> None:
    """Print tables and, last, what they say."""
    from truenorm.cli.terminal import console

    output = console()
    for table in tables:
        output.print(table)
    output.print(sentence, markup=False)


def _write_svgs(figures: "Sequence[Figure]", folder: Path, labels: Sequence[str]) -> None:
    from truenorm.lab.report.figure import write_svgs

    written = write_svgs(figures, folder, labels)
    say(f"charts: {len(written)} in {folder}")


def _write_page(page: str, path: Path) -> None:
    from truenorm.files import write_whole

    write_whole(path, page.encode())
    say(f"page: {path}")


def say(*lines: str) -> None:
    """The last lines of a command. A path is text, never markup, and one line wherever it ends."""
    from truenorm.cli.terminal import console

    console().print("", *lines, sep="\n", markup=False, soft_wrap=True)

"""Rows that show themselves: in a terminal through rich, in a notebook as HTML."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


_LONG = 30
"""Letters in the name of a layer from which on it may take several lines."""

_WORDS = 8
"""Letters in a heading from which on it takes two, beside such names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table of text; the first column names the row, the others are right-aligned
    but for those without a heading, which are bars.

    Args:
        title: one line above the table.
        columns: the headings.
        rows: one tuple of cells per row, as long as `columns`.
        notes: sentences below the table.
        text: columns whose cells are words: left-aligned, and on several lines where there is no room for one.

    Example:
        >>> table = Table(title="shift", columns=("layer", "σ"), rows=(("bn1", "0.31"),))
        >>> table.to_html()[:45]
        '<table><caption>shift</caption><thead><tr><th'
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text: tuple[str, ...] = ()

    def __rich__(self) -> "RichTable":
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        # Cells are names that users gave: they are text, never markup.
        table = RichTable(
            title=Text(self.title, style="bold"),
            caption=Text("\n".join(self.notes)) if self.notes else None,
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        # Where the names of layers are long, numbers keep their width: names go over several lines, and bars are cut.
        long = any(len(row[0]) > _LONG and " " not in row[0] for row in self.rows)
        for index, column in enumerate(self.columns):
            left = index == 0 or not column
            words = column in self.text
            table.add_column(
                Text(column.replace(" ", "\n", 1) if long and len(column) > _WORDS else column),
                justify="left" if left or words else "right",
                no_wrap=not left and not words if long else left,
                overflow="fold" if long and index == 0 else "ellipsis",
            )
        for row in self.rows:
            cells = [Text(cell) for cell in row]
            for cell, column in zip(cells, self.columns, strict=True):
                cell.no_wrap, cell.overflow = (True, "crop") if long and not column else (None, None)
            table.add_row(*cells)
        return table

    def to_html(self) -> str:
        """The table as HTML; every cell escaped."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return (
            f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{notes}"
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def plain(shown: object, width: int = 120) -> str:
    """What a terminal of this width would show, as text.

    Example:
        >>> plain("a line", 40)
        'a line'
    """
    from rich.console import Console

    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def number(value: float, digits: int = 3) -> str:
    """A number as people read it: `digits` significant ones, no exponent between 1e-4 and 1e6.

    Example:
        >>> number(0.000123456), number(0.0), number(12.5), number(2e-7)
        ('0.000123', '0', '12.5', '2e-07')
    """
    return f"{value:.{digits}g}"

"""A walk: steps that show themselves in a terminal and as Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truenorm.show import Table

if TYPE_CHECKING:
    from rich.console import Group

_WIDE = 120
"""Columns of a paragraph where the terminal is wider: from longer lines the eye does not find back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that the layer does: said, calculated, as code, in numbers.

    Args:
        title: its heading.
        sentences: what is done and why.
        formulas: lines of arithmetic; what stands between two = is equal.
        code: lines of Python that do it; they go on from those of the steps before.
        tables: the numbers.
        remarks: what the numbers show.

    Example:
        >>> Step(title="1. Add", sentences=("One and one.",), formulas=("1 + 1 = 2",)).formulas
        ('1 + 1 = 2',)
    """

    title: str
    sentences: tuple[str, ...]
    formulas: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The step as a section of a Markdown page."""
        parts = [
            f"## {self.title}",
            "\n".join(self.sentences),
            _fenced("text", self.formulas),
            _fenced("python", self.code),
            *(_markdown_table(table) for table in self.tables),
            "\n".join(self.remarks),
        ]
        return "\n\n".join(part for part in parts if part)

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.text import Text

        parts: list[Constrain | Table | Text] = [Text(self.title, style="bold")]
        parts.append(Constrain(Text(" ".join(self.sentences)), _WIDE))
        parts += [Text(f"    {line}") for line in self.formulas]
        # With Python's prompts: where there are no colours, arithmetic and code look alike.
        parts += [Text(f"    {'...' if line[0] == ' ' else '>>>'} {line}", style="cyan") for line in self.code]
        parts += self.tables
        if self.remarks:
            parts.append(Constrain(Text(" ".join(self.remarks)), _WIDE))
        return Group(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Steps in their order, under one title; shows itself in a terminal and as Markdown.

    Args:
        title: the heading.
        opening: sentences before the first step.
        steps: the steps.

    Example:
        >>> print(Walk(title="Sums", opening=("By hand.",), steps=()).markdown())
        # Sums
        <BLANKLINE>
        By hand.
        <BLANKLINE>
    """

    title: str
    opening: tuple[str, ...]
    steps: tuple[Step, ...]

    def markdown(self) -> str:
        """The walk as a page of Markdown, ending in a newline."""
        parts = [f"# {self.title}", "\n".join(self.opening), *(step.markdown() for step in self.steps)]
        return "\n\n".join(parts) + "\n"

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.text import Text

        parts = [Text(self.title, style="bold"), Constrain(Text(" ".join(self.opening)), _WIDE), Text("")]
        for step in self.steps:
            # A table ends in an empty line of its own.
            parts += [step] if step.tables and not step.remarks else [step, Text("")]
        return Group(*parts[:-1])


def _fenced(language: str, lines: Iterable[str]) -> str:
    found = "\n".join(lines)
    return f"```{language}\n{found}\n```" if found else ""


def _markdown_table(table: Table) -> str:
    aligned = ("---", *("---:" for _ in table.columns[1:]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.columns, aligned, *table.rows))

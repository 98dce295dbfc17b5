"""A walk: a page of Markdown in steps, which shows itself in a terminal, too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truenorm.show import Table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.constrain import Constrain

_WIDE = 120
"""Columns of a paragraph where the terminal is wider: from longer lines the eye does not find back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    r"""One thing that the layer does: in words, calculated, as code, in numbers.

    Args:
        title: its heading.
        sentences: what is done and why.
        formulas: lines of arithmetic; what stands between two = is equal.
        code: lines of Python that do it; they go on from those of the steps before.
        tables: the numbers.
        remarks: what the numbers show.

    Example:
        >>> Step.parse("1. Add\n\nOne and one.\n\n```text\n1 + 1 = 2\n```\n").formulas
        ('1 + 1 = 2',)
    """

    title: str
    sentences: tuple[str, ...]
    formulas: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()

    @staticmethod
    def parse(section: str) -> "Step":
        """A section of the page, without the marks of its heading."""
        title, *blocks = [block.splitlines() for block in section.strip().split("\n\n")]
        fenced = {block[0].removeprefix("```"): tuple(block[1:-1]) for block in blocks if block[0].startswith("```")}
        tables = tuple(_table(block) for block in blocks if block[0].startswith("|"))
        sentences, *remarks = [block for block in blocks if not block[0].startswith(("```", "|"))]
        return Step(
            title=title[0],
            sentences=tuple(sentences),
            formulas=fenced.get("text", ()),
            code=fenced.get("python", ()),
            tables=tables,
            remarks=tuple(line for block in remarks for line in block),
        )

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        return Group(
            Text(self.title, style="bold"),
            _paragraph(self.sentences),
            *(Text(f"    {line}") for line in self.formulas),
            # With Python's prompts: where there are no colours, arithmetic and code look alike.
            *(Text(f"    {'...' if line[0] == ' ' else '>>>'} {line}", style="cyan") for line in self.code),
            *self.tables,
            *([_paragraph(self.remarks)] if self.remarks else []),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    r"""Steps in their order, under one title; shows itself in a terminal and as Markdown.

    Args:
        page: Markdown: a heading and sentences, then a section for each step.

    Example:
        >>> Walk(page="# Sums\n\nBy hand.\n\n## 1. Add\n\nOne and one.\n").steps[0].title
        '1. Add'
    """

    page: str

    @property
    def steps(self) -> tuple[Step, ...]:
        """Parsed from the page."""
        return tuple(map(Step.parse, self.page.split("\n## ")[1:]))

    def markdown(self) -> str:
        """The walk as a page of Markdown, ending in a newline."""
        return self.page

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        title, opening = self.page.split("\n\n")[:2]
        parts = [Text(title.removeprefix("# "), style="bold"), _paragraph(opening.splitlines()), Text("")]
        for step in self.steps:
            # A table ends in an empty line of its own.
            parts += [step] if step.tables and not step.remarks else [step, Text("")]
        return Group(*parts[:-1])


def _paragraph(sentences: Iterable[str]) -> "Constrain":
    from rich.constrain import Constrain
    from rich.text import Text

    return Constrain(Text(" ".join(sentences)), _WIDE)


def _table(lines: Sequence[str]) -> Table:
    columns, _, *rows = [tuple(line[2:-2].split(" | ")) for line in lines]
    return Table(title="", columns=columns, rows=tuple(rows))

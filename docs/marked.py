"""Tables in Markdown, each with a comment before it that says where its figures come from.

`<!-- table: NAME -->`: made by `TABLES[NAME]` of `tables.py`. `<!-- table without figures -->`: it only explains.
`<!-- transcript: … -->`: the output of a command that has no record.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MADE, EXPLAINS, TRANSCRIPT = "table: ", "table without figures", "transcript: "
_COMMENT = re.compile(r"<!-- (.*) -->")
_RULE = "───"
"""What the terminal's tables have below their headings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A Markdown table, or a fenced block that is a table of the terminal or has a marker.

    Args:
        marker: what the comment before it says; "" without one.
        section: the heading above it.
        start: number of lines before it.
        lines: its lines, with those of the fence.
    """

    marker: str
    section: str
    start: int
    lines: tuple[str, ...]

    @property
    def name(self) -> str | None:
        """Of what makes it; None where nothing does."""
        return self.marker.removeprefix(MADE) if self.marker.startswith(MADE) else None


def blocks(text: str) -> tuple[Block, ...]:
    """The tables of a document, from its beginning."""
    lines = text.splitlines()
    found: list[Block] = []
    section = ""
    for start, end in _spans(lines):
        before = [line for line in lines[:start] if line.strip()]
        comment = _COMMENT.fullmatch(before[-1]) if before else None
        marker = comment[1] if comment and comment[1].startswith((MADE, EXPLAINS, TRANSCRIPT)) else ""
        span = tuple(lines[start:end])
        if span[0].startswith("#"):
            section = span[0].lstrip("# ")
        elif span[0].startswith("|") or marker or any(_RULE in line for line in span):
            found.append(Block(marker=marker, section=section, start=start, lines=span))
    return tuple(found)


def replaced(text: str, block: Block, lines: Sequence[str]) -> str:
    """The document with other lines for that block."""
    before = text.splitlines()
    end = block.start + len(block.lines)
    return "\n".join([*before[: block.start], *lines, *before[end:]]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The lines of a table.

    Example:
        >>> table(["batch size", "%"], [["4", "87.62"]])
        ('| batch size | % |', '| --- | --- |', '| 4 | 87.62 |')
    """
    return tuple(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def _spans(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Beginning and end of each heading, fenced block and Markdown table."""
    start = 0
    while start < len(lines):
        end = start + 1
        if lines[start].startswith("```"):
            while lines[end] != "```":
                end += 1
            end += 1
            yield start, end
        elif lines[start].startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield start, end
        elif lines[start].startswith("#"):
            yield start, end
        start = end

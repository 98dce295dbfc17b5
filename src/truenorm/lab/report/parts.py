"""What an article on a page is made of, beside tables and figures: values, which the template draws."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from truenorm.lab.report.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A verdict as one sees it at a glance: never by its colour alone.

    Args:
        kind: its colour and symbol.
        word: what it says.
    """

    kind: Literal["yes", "no", "open"]
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A line of an overview.

    Args:
        number: before it.
        text: what leads to the section.
        to: the section's name.
        badge: what was found there.
        aside: more of it, in a few words.
    """

    number: str
    text: str
    to: str
    badge: Badge
    aside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """An overview that leads to sections."""

    kind: ClassVar[str] = "links"
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What somebody says.

    Args:
        text: their words.
        by: who they are.
    """

    kind: ClassVar[str] = "quote"
    text: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Names, and what is said beside each.

    Args:
        lines: of a name, or what stands for it, and a sentence.
        heading: above them; "" for none.
    """

    kind: ClassVar[str] = "lines"
    lines: tuple[tuple[str | Badge, str], ...]
    heading: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A number with its interval, drawn on a line from 0 to 100.

    Args:
        name: of what.
        text: what it is, in a few more words.
        told: the number in figures.
        aside: beside it, in a few words.
        badge: what was found of it.
        zero: where there is no effect.
        mark: where an effect begins to be worth something.
        low: the lower end of the interval; None where there is no number.
        mean: the number.
        high: the upper end.
    """

    name: str
    text: str
    told: str
    aside: str
    badge: Badge
    zero: float
    mark: float
    low: float | None
    mean: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars, one below the other.

    Args:
        heading: above them.
        bars: on one scale, where they have one unit.
        notes: sentences below.
    """

    kind: ClassVar[str] = "bars"
    heading: str
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a colour, a symbol and a dash stand for.

    Args:
        name: of the arm.
        text: what it is.
        colour: as the style of the page names it.
        symbol: an SVG path about 0, two units wide.
        dash: of its line, as SVG has it; None where no lines are drawn.
    """

    name: str
    text: str
    colour: str
    symbol: str
    dash: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Charts of one kind, side by side where there is room, with one legend for all.

    Args:
        heading: above them.
        text: how to read them.
        keys: the legend.
        figures: the charts, without legends of their own.
    """

    kind: ClassVar[str] = "panels"
    heading: str
    text: str
    keys: tuple[Key, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line for a terminal.

    Args:
        heading: what it does.
        line: itself.
    """

    kind: ClassVar[str] = "command"
    heading: str
    line: str


Part = Links | Quote | Lines | Bars | Panels | Command

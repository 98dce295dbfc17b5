"""What a claim consists of: its text, what is trained for it, what is compared, and what is drawn."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, Literal

from truenorm.errors import InvalidInput
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.claims.trial import ClaimTrial
from truenorm.lab.jobs.job import OnStep
from truenorm.record import Measurement

Unit = Literal["points", "factor", "plain"]
"""How an effect is shown: shares as points of a hundred, natural logarithms as factors, others as they are."""

Effect = Callable[[Evidence], Mapping[int, float]]
"""The record's numbers of a claim → seed → effect of a comparison."""

Rows = Iterator[Measurement]
"""What a trial measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparison of a claim, as a page prints it: a positive effect is as the claim has it.

    Args:
        name: the condition in a few words, such as `batch 512`; it completes "holds for …".
        says: what the effect is, such as `largest rate that trains, batch norm over none`.
        margin: the minimum relevant effect, fixed before any run; positive.
        unit: of effect and margin.
        resolution: the step in which effects come, where they come in steps; `one image` of the test images.
    """

    name: str
    says: str
    margin: float
    unit: Unit
    resolution: float | Literal["one image"] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Comparison):
    """A comparison of the catalogue.

    Args:
        effect: how it is computed.
    """

    effect: Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A metric of the claim's table.

    Args:
        metric: as its rows name it.
        heading: of the column.
        unit: `points`: a share, shown as per cent; `plain`: as it is; `factor`: a logarithm, shown as its power.
        digits: significant ones, or decimals of points.
    """

    metric: str
    heading: str
    unit: Unit = "plain"
    digits: int = 3


def _unwrap(value: Any) -> None:
    """Make one line of each text: the catalogue wraps them as docstrings are."""
    for name in (each.name for each in fields(value)):
        if isinstance(text := getattr(value, name), str):
            object.__setattr__(value, name, re.sub(r"\s*\n\s*", " ", text))  # the classes are frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The claim's chart: a metric of each arm, along an axis where there is one.

    Args:
        metric: as its rows name it.
        y: what it is, with the unit.
        x: the value of a trial's place along the axis, such as `batch_size`; None: arms one below the other.
        x_title: what that is.
        panels: the value of a trial's place by which the chart is divided; None: one chart.
        log_x: whether the axis is logarithmic.
        log_y: the same for the metric.
        unit: of the metric; `points` draws shares as per cent.
        at: where the drawn trials are, if not all are drawn.
        without: arms that only the table has, since they would leave the others no room.
        text: how to read it, in a sentence or two for somebody who never trained a network.
    """

    metric: str
    y: str
    text: str
    x: str | None = None
    x_title: str = ""
    panels: str | None = None
    log_x: bool = False
    log_y: bool = False
    unit: Unit = "plain"
    at: Mapping[str, Any] = field(default_factory=dict[str, Any])
    without: tuple[str, ...] = ()

    __post_init__ = _unwrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm at one place: the same work for every seed.

    Args:
        arm: what is compared, such as `bn` or `none`.
        where: the place, such as `{"batch_size": 16}`; values of JSON's kinds.
        lrs: learning rates to choose from on validation images, or the one; none where nothing is trained.
        steps: of training, for the time that is left.
    """

    arm: str
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lrs: tuple[float, ...] = ()
    steps: int = 1


def grid(arms: Iterable[str], *, lrs: tuple[float, ...] = (), steps: int = 1, **axes: Iterable[Any]) -> list[Cell]:
    """A cell for each arm at each place, place by place; the last axis changes fastest.

    Args:
        arms: what is compared.
        lrs: learning rates of all cells.
        steps: of all cells.
        axes: name of a value of the places → the values that it takes.

    Example:
        >>> [(cell.arm, cell.where["depth"]) for cell in grid(["none", "bn"], depth=[5, 10])]
        [('none', 5), ('bn', 5), ('none', 10), ('bn', 10)]
    """
    places = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [Cell(arm=arm, where=place, lrs=lrs, steps=steps) for place in places for arm in arms]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimText:
    """What a page prints of a claim; a record holds it.

    Args:
        number: in the list of claims.
        name: for the command line.
        title: the claim in a few words, as a sentence.
        sentence: the claim as it is made.
        sources: who makes it.
        literature: what papers found, in a sentence or two with their names.
        literature_verdict: what they come to, in a word or few, to stand beside ours.
        plainly: what it means, for somebody who never trained a network.
        hypothesis: what must be seen if it is true.
        control: what batch norm is compared with, and what is kept equal.
        measure: what is measured.
        arms: name of each arm → what it is, in the order of tables and charts.
        parts: its comparisons.
        primary: name of the comparison that decides the claim; "" only in records made before claims had one.
        why_primary: why that one, by the words of the claim alone.
        columns: of its table.
        picture: its chart.
    """

    number: int
    name: str
    title: str
    sentence: str
    sources: tuple[str, ...]
    literature: str
    literature_verdict: str
    plainly: str
    hypothesis: str
    control: str
    measure: str
    arms: Mapping[str, str]
    parts: tuple[Comparison, ...]
    primary: str = ""
    why_primary: str = ""
    columns: tuple[Column, ...]
    picture: Picture

    __post_init__ = _unwrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(ClaimText):
    """A claim about batch norm, and everything by which it is judged.

    Args:
        parts: its comparisons, and how each effect is computed.
        primary: name of the comparison that decides the claim.
        why_primary: why that one, by the words of the claim alone.
        cells: what is done, given the context.
        run: a trial and its context → what was measured; of a trial that tunes, one row whose value is the better the
            higher. `on_step` is called after each step of training.

    Raises:
        InvalidInput: the primary is not one of the comparisons.
    """

    parts: tuple[Part, ...]
    # Old records lack these two; a claim of the catalogue may not.
    primary: str  # pyright: ignore[reportGeneralTypeIssues]
    why_primary: str  # pyright: ignore[reportGeneralTypeIssues]
    cells: Callable[[ClaimsContext], Sequence[Cell]]
    run: Callable[[ClaimTrial, ClaimsContext, OnStep], Rows]

    def __post_init__(self) -> None:
        _unwrap(self)
        if self.primary not in [part.name for part in self.parts]:
            raise InvalidInput(f"the primary of {self.name}, {self.primary!r}, is not one of its comparisons")

"""One page of HTML, complete in itself: nothing is fetched, and its text and tables need no script."""

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from truenorm.errors import extra
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.look import COLOURS
from truenorm.lab.report.parts import Badge, Panels, Part
from truenorm.record import Record
from truenorm.show import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Tables of a section.

    Args:
        views: the tables of each setting, or of all alike.
        folded: the words behind which they are folded away; "" where they are open.
    """

    kind: ClassVar[str] = "tables"
    views: tuple[tuple[Table, ...], ...]
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with tables and figures below it.

    Args:
        heading: its name.
        parts: in this order.
        text: sentences above them.
        lines: of a name and what is said under it, above them, too.
        name: what links lead to; "" where none does.
        kicker: a few words above the heading.
        badge: beside the heading, with a few words of its own.
        aside: these words.
    """

    heading: str
    parts: tuple[Tables | Figure | Part, ...] = ()
    text: tuple[str, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    name: str = ""
    kicker: str = ""
    badge: Badge | None = None
    aside: str = ""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Its figures alone, as they are drawn on the page."""
        figures: list[Figure] = []
        for part in self.parts:
            figures += [part] if isinstance(part, Figure) else part.figures if isinstance(part, Panels) else ()
        return tuple(figures)

    @property
    def chosen(self) -> bool:
        """Whether it shows one setting of several."""
        return any(len(part.views) > 1 for part in self.parts if isinstance(part, Tables | Figure))


def page(
    title: str,
    headline: str,
    *sections: Section,
    text: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    record: Record | None = None,
) -> str:
    """A page around sections; every name in it comes out as text.

    Args:
        title: what this is about.
        headline: what was found, in a sentence.
        sections: in this order. What has several views shows the one of the setting that the reader chooses.
        text: more sentences below the headline.
        settings: labels of the settings, one for each view.
        record: what says how it was made: command, configuration, versions, machine and notes are shown at the end.

    Raises:
        MissingExtra: jinja2 is not installed, or what draws charts where there are some.

    Example:
        >>> page("a study", "No difference is shown.", Section(heading="Arms")).startswith("<!doctype html>")
        True
    """
    with extra("report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("truenorm.lab.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {figure.name: figure for section in sections for figure in section.figures}
    views = {
        name: [{"title": view.title, "chart": view.filled_in()} for view in figure.views]
        for name, figure in figures.items()
    }
    return environment.get_template("page.html.jinja").render(
        title=title,
        headline=headline,
        text=text,
        sections=sections,
        settings=settings,
        colours=COLOURS,
        record=record,
        facts=_facts(record) if record else {},
        article=any(section.name for section in sections),
        specs={name: figure.spec for name, figure in figures.items()},
        views=_packed(json.dumps(views, ensure_ascii=False, allow_nan=False)),
        library=_library() if figures else "",
    )


def needed() -> None:
    """Nothing, where all is installed that a page with charts needs.

    Raises:
        MissingExtra: something is not.
    """
    with extra("report"):
        for module in ("altair", "jinja2", "vl_convert"):
            import_module(module)


_NOT_FACTS = ("arm_notes", "catalogue")
"""Values of a configuration that are text of the page, or of an older format."""


def _facts(record: Record) -> dict[str, Mapping[str, str]]:
    """Tables of name and value for the end of the page."""
    configuration = {name: value for name, value in record.configuration.items() if name not in _NOT_FACTS}
    facts = {"configuration": configuration, "versions": record.versions, "machine": record.machine}
    return {title: {name: _value(value) for name, value in values.items()} for title, values in facts.items()}


def _value(value: Any) -> str:
    """A value of a configuration as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(_value(one) for one in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_value(one)}" for name, one in value.items()) or "none"
    return "none" if value is None else str(value)


@cache
def _library() -> str:
    """Vega, which draws; a page holds it once, packed to half its size."""
    with extra("report"):
        from altair import SCHEMA_VERSION
        from vl_convert import javascript_bundle

    version = ".".join(SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return _packed(javascript_bundle("globalThis.vegaEmbed = vegaEmbed;", vl_version=version))


def _packed(text: str) -> str:
    """Compressed, in letters that HTML has no other use for; equal texts give equal letters."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

"""A record of claims as a page for somebody who never trained a network."""

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Literal

from truenorm.errors import extra
from truenorm.lab.report.claims.record import ClaimsRecord, Place, format_value, place_name
from truenorm.lab.report.claims.words import amount, effect, headline, margin, otherwise
from truenorm.lab.report.figure import Figure, ends
from truenorm.lab.report.page import Section, Tables, page
from truenorm.lab.report.parts import Badge, Bar, Bars, Command, Lines, Link, Links, Quote
from truenorm.lab.report.wording import capitalised, counted
from truenorm.record import Record
from truenorm.show import Table

if TYPE_CHECKING:
    from truenorm.lab.claims.claim import ClaimText, Unit
    from truenorm.lab.claims.verdict import Finding, Ruling, Verdict

_KINDS: "Mapping[Ruling, Literal['yes', 'no', 'open']]" = {
    "holds": "yes",
    "does not hold": "no",
    "cannot tell": "open",
}


def claims_page(claims: ClaimsRecord) -> str:
    """The page of a record of claims: how many hold, how to read it, and a card for each.

    Args:
        claims: the parsed record.

    Returns:
        HTML, complete in itself.

    Raises:
        MissingExtra: what draws is not installed.
    """
    return page(
        _title(claims),
        headline(claims.verdicts),
        *([_overview(claims)] if len(claims.verdicts) > 1 else []),
        _how_to_read(claims),
        *(_card(claims, verdict) for verdict in claims.verdicts),
        text=tuple(filter(None, (otherwise(claims.verdicts), claims.lacking))),
        record=claims.record,
    )


def claims_figures(claims: ClaimsRecord) -> list[Figure]:
    """Every chart of the page, each with its own legend."""
    with extra("report"):
        from truenorm.lab.report.charts.claims import claim_figures

    drawn = [claim_figures(verdict.claim, claims.places_of(verdict.claim)) for verdict in claims.verdicts]
    return [figure for figures in drawn for figure in figures]


def _title(claims: ClaimsRecord) -> str:
    quick = ("a quick look",) if claims.record.configuration.get("quick") else ()
    return " · ".join(["truenorm claims", claims.images.name, counted(len(claims.seeds), "seed"), *quick])


def _overview(claims: ClaimsRecord) -> Section:
    links = tuple(
        Link(
            number=str(verdict.claim.number),
            text=verdict.claim.title,
            to=_anchor(verdict.claim),
            badge=_badge(verdict.ruling),
            aside=verdict.elsewhere,
        )
        for verdict in claims.verdicts
    )
    return Section(heading="At a glance", parts=(Links(links=links),))


def _how_to_read(claims: ClaimsRecord) -> Section:
    """The experiment and the rule in words, what each verdict means, and how to read bars, networks and limits."""
    images, seeds = claims.images, len(claims.seeds)
    values = {
        "name": images.name,
        "train": f"{images.train:,}",
        "test": f"{images.test:,}",
        "times": f"{seeds} times, each time with other initial weights and another order of images",
        "family": claims.family,
    } | ({"times": "once"} if seeds == 1 else {})
    template = files("truenorm.lab.report").joinpath("template", "how-to-read.txt").read_text(encoding="utf-8")
    paragraphs = [Template(" ".join(lines.split())).substitute(values) for lines in template.split("\n\n")]
    experiment, rule, *entries = paragraphs
    meanings = dict(entry.split(": ", 1) for entry in entries)
    rulings = Lines(lines=tuple((_badge(ruling), meanings.pop(ruling)) for ruling in _KINDS))
    notes = Lines(lines=tuple(meanings.items()))
    return Section(heading="How to read this", text=(experiment, rule), parts=(rulings, notes))


def _card(claims: ClaimsRecord, verdict: "Verdict") -> Section:
    with extra("report"):
        from truenorm.lab.report.charts.claims import claim_panels

    claim = verdict.claim
    places = claims.places_of(claim)
    asked = Lines(
        lines=(
            ("if it is so", claim.hypothesis),
            ("compared with", claim.control),
            ("what is measured", claim.measure),
            ("what decides", f"{capitalised(claim.primary)}. {claim.why_primary}"),
        )
    )
    papers = Lines(
        heading="What the literature found",
        lines=(
            ("papers", claim.literature),
            ("they come to", claim.literature_verdict),
            ("seen here", "; ".join(filter(None, (verdict.ruling, verdict.elsewhere)))),
        ),
    )
    numbers = Tables(views=((_numbers(claim, places),),), folded="The numbers")
    return Section(
        heading=claim.title,
        name=_anchor(claim),
        kicker=f"Claim {claim.number}",
        badge=_badge(verdict.ruling),
        aside=verdict.elsewhere,
        text=(claim.plainly,),
        parts=(
            Quote(text=claim.sentence, by=", ".join(claim.sources)),
            asked,
            _findings(verdict, claims.notes_of(claim)),
            *claim_panels(claim, places),
            numbers,
            papers,
            Command(heading="This card again", line=_command(claims.record, claim.name)),
        ),
    )


def _anchor(claim: "ClaimText") -> str:
    return f"claim-{claim.name}"


def _badge(ruling: "Ruling") -> Badge:
    return Badge(kind=_KINDS[ruling], word=ruling)


def _findings(verdict: "Verdict", notes: Sequence[str]) -> Bars:
    scales = {finding.part.unit: _Scale(verdict.findings, finding.part.unit) for finding in verdict.findings}
    return Bars(
        heading="What was found",
        bars=tuple(
            _bar(finding, scales[finding.part.unit], primary=finding is verdict.primary) for finding in verdict.findings
        ),
        notes=tuple(map(capitalised, notes)),
    )


class _Scale:
    """One for all effects of a unit: it holds no effect, each margin, each mean, and what fits of the intervals."""

    def __init__(self, findings: "Sequence[Finding]", unit: "Unit") -> None:
        ours = [finding for finding in findings if finding.part.unit == unit]
        margins = [finding.part.margin for finding in ours]
        effects = [finding.effect for finding in ours if finding.effect is not None]
        most = max(abs(value) for value in (*margins, *(each.mean for each in effects)))
        # An interval may be endless: it reaches no further than the means do, and as far again.
        inside = [end for each in effects for end in ends(each, -2 * most, 2 * most)]
        low, high = min([0.0, *inside]), max([*margins, *inside])
        room = 0.06 * (high - low)
        self._low, self._width = low - room, high - low + 2 * room

    def __call__(self, value: float) -> float:
        return round(min(max(100 * (value - self._low) / self._width, 0.0), 100.0), 2)


def _bar(finding: "Finding", scale: _Scale, *, primary: bool) -> Bar:
    part, measured = finding.part, finding.effect
    low = mean = high = None
    if measured is not None:
        low, mean, high = (scale(value) for value in sorted((measured.mean, *ends(measured))))
    seeds = counted(finding.seeds, "seed") if finding.seeds else "nothing measured"
    return Bar(
        name=part.name,
        text=part.says,
        told=effect(measured, part.unit),
        aside=f"{'primary · ' if primary else ''}needed: {margin(part)} · {seeds}",
        badge=_badge(finding.ruling),
        zero=scale(0.0),
        mark=scale(part.margin),
        low=low,
        mean=mean,
        high=high,
    )


def _numbers(claim: "ClaimText", places: Sequence[Place]) -> Table:
    """Each metric of the claim's table, by arm and place."""
    keys = list(dict.fromkeys(key for place in places for key in place.where))
    # A rate that is no value of the place was chosen for it.
    chosen = any(place.lr is not None and place.lr not in place.where.values() for place in places)
    if chosen:
        keys.append("learning rate")
    rows = [
        (
            place.arm,
            *(format_value(values[key]) if key in values else "" for key in keys),
            *(amount(place.interval(column.metric), column.unit, column.digits) for column in claim.columns),
            str(max(map(len, place.values.values()), default=0)),
        )
        for place in places
        for values in [{**place.where} if place.lr is None else {**place.where, "learning rate": place.lr}]
    ]
    return Table(
        title="means over seeds ± 95 %",
        columns=("arm", *map(place_name, keys), *(column.heading for column in claim.columns), "seeds"),
        rows=tuple(rows),
        notes=("Learning rates were chosen on pictures apart from those of the test.",) if chosen else (),
    )


def _command(record: Record, name: str) -> str:
    """The line that measures a claim again as it was; of a record of another program, the line that made it."""
    if not record.command.startswith("truenorm claims"):
        return record.command
    configuration = record.configuration
    line = ["truenorm", "claims", name, "--data", str(configuration.get("data", "digits"))]
    for option in ("data_root", "limit", "test_limit", "seeds"):
        if configuration.get(option) is not None:
            line += [f"--{option.replace('_', '-')}", str(configuration[option])]
    return shlex.join([*line, *(["--quick"] if configuration.get("quick") else [])])

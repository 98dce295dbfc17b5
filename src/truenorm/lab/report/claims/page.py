"""A record of claims as a page for somebody who never trained a network."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from truenorm.lab.report.claims.record import ClaimsRecord, Place, format_value, place_name
from truenorm.lab.report.claims.words import amount, effect, headline, margin
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.page import Section, Tables, page
from truenorm.lab.report.parts import Badge, Bar, Bars, Command, Lines, Link, Links, Quote
from truenorm.metrics.intervals import Interval
from truenorm.show import Table

if TYPE_CHECKING:
    from truenorm.lab.claims.claim import ClaimText, Unit
    from truenorm.lab.claims.verdict import Finding, Ruling, Verdict

_KINDS: "Mapping[Ruling, Literal['yes', 'no', 'mixed', 'open']]" = {
    "holds": "yes",
    "does not hold": "no",
    "depends": "mixed",
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
        *(_overview(claims) if len(claims.verdicts) > 1 else ()),
        _how_to_read(claims),
        *(_card(claims, verdict) for verdict in claims.verdicts),
        text=(*_condition(claims), *((claims.lacking,) if claims.lacking else ())),
        record=claims.record,
    )


def claims_figures(claims: ClaimsRecord) -> list[Figure]:
    """Every chart of the page, each with its own legend."""
    from truenorm.lab.report.charts.claims import claim_figures

    drawn = [claim_figures(verdict.claim, claims.places_of(verdict.claim)) for verdict in claims.verdicts]
    return [figure for figures in drawn for figure in figures]


def _title(claims: ClaimsRecord) -> str:
    seeds = len(claims.seeds)
    quick = ("a quick look",) if claims.record.configuration.get("quick") else ()
    return " · ".join(["truenorm claims", claims.images.name, f"{seeds} seed{'' if seeds == 1 else 's'}", *quick])


def _condition(claims: ClaimsRecord) -> tuple[str, ...]:
    """Of a claim alone, what its verdict depends on."""
    only, *others = claims.verdicts
    condition = "" if others else only.condition
    return (f"{condition[:1].upper()}{condition[1:]}.",) if condition else ()


def _overview(claims: ClaimsRecord) -> tuple[Section, ...]:
    links = tuple(
        Link(
            number=str(verdict.claim.number),
            text=verdict.claim.title,
            to=_anchor(verdict.claim),
            badge=_badge(verdict.ruling),
            aside=verdict.condition,
        )
        for verdict in claims.verdicts
    )
    return (Section(heading="At a glance", parts=(Links(links=links),)),)


def _how_to_read(claims: ClaimsRecord) -> Section:
    images, seeds = claims.images, len(claims.seeds)
    times = "once" if seeds == 1 else f"{seeds} times, each time with other initial weights and another order of images"
    experiment = (
        "Batch norm is a layer that subtracts from each number in a network its mean over a batch of pictures and "
        "divides by its standard deviation (the “statistics”). In use (“inference”) it takes averages that were "
        "stored in training. Much is said about what this does. Here small networks were built with it and without, "
        "all else kept equal but for the learning rate, of which each may take its best, and trained to recognise "
        f"pictures ({images.name}: {images.train:,} to learn from, {images.test:,} others to be tested on), "
        f"{times}."
    )
    rule = (
        "What would have to be seen if a claim were true, how large an effect must be to be worth the claim's words, "
        "and how a verdict follows from the numbers, stands in the code. Nobody overrules it."
    )
    words = (
        (_badge("holds"), "In every comparison the effect is there, by more than chance explains, and large enough."),
        (_badge("does not hold"), "In every comparison it is shown to be too small for the words, or the opposite."),
        (
            _badge("depends"),
            "For some comparisons it holds, for others it does not, or is not shown: the card says for which.",
        ),
        (
            _badge("cannot tell"),
            "Shown for no comparison, but not ruled out for all.",
        ),
    )
    bars = (
        "Right is as the claim says, left the opposite. The dot is the mean effect over the repetitions, the bar its "
        "95 % interval. A comparison holds if the bar is right of the solid line (no effect) and the dot not left of "
        "the dashed one (the smallest effect worth the words); it does not hold if the bar is left of the dashed "
        "one. “×2” is twice as much, a “point” one hundredth. Effects are taken within each repetition, so that bars "
        "in the charts below may overlap where an effect is clear."
    )
    limits = (
        f"With {claims.family} comparisons some would look clear by mere luck, so a bar only just clear of its line is "
        "not enough (Holm's correction). And these are small networks and small pictures: what is so here need not "
        "be so for large ones. Green means that what is said is right, not that batch norm is good."
    )
    networks = (
        "“mlp” and “cnn” are two kinds: an MLP weighs all pixels together, layer after layer; a CNN looks at small "
        "neighbourhoods, alike everywhere. “Batch 64” means that 64 pictures are seen at once at each step of "
        "training. “Seeds” are the repetitions, the “loss” (also NLL) is how wrong a network is, its “rate” how far "
        "its weights move at each step."
    )
    notes = (("the bars", bars), ("the networks", networks), ("the limits", limits))
    parts = (Lines(lines=words), Lines(lines=notes))
    return Section(heading="How to read this", text=(experiment, rule), parts=parts)


def _card(claims: ClaimsRecord, verdict: "Verdict") -> Section:
    from truenorm.lab.report.charts.claims import claim_panels

    claim = verdict.claim
    places = claims.places_of(claim)
    asked = Lines(
        lines=(
            ("if it is so", claim.hypothesis),
            ("compared with", claim.control),
            ("what is measured", claim.measure),
        )
    )
    papers = Lines(
        heading="What the literature found",
        lines=(
            ("papers", claim.literature),
            ("they come to", claim.literature_verdict),
            ("seen here", ": ".join(said for said in (verdict.ruling, verdict.condition) if said)),
        ),
    )
    numbers = Tables(views=((_numbers(claim, places),),), folded="The numbers")
    return Section(
        heading=claim.title,
        name=_anchor(claim),
        kicker=f"Claim {claim.number}",
        badge=_badge(verdict.ruling),
        aside=verdict.condition,
        text=(claim.plainly,),
        parts=(
            Quote(text=claim.sentence, by=", ".join(claim.sources)),
            asked,
            _findings(verdict, claims.notes_of(claim)),
            *claim_panels(claim, places),
            numbers,
            papers,
            Command(heading="This card again", line=_command(claims.record.configuration, claim.name)),
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
        bars=tuple(_bar(finding, scales[finding.part.unit]) for finding in verdict.findings),
        notes=tuple(f"{note[:1].upper()}{note[1:]}" for note in notes),
    )


class _Scale:
    """One for all effects of a unit: it holds no effect, each margin, each mean, and what fits of the intervals."""

    def __init__(self, findings: "Sequence[Finding]", unit: "Unit") -> None:
        ours = [finding for finding in findings if finding.part.unit == unit]
        means = [finding.effect.mean for finding in ours if finding.effect is not None]
        most = max(abs(value) for value in (*means, *(finding.part.margin for finding in ours)))
        ends = [end for finding in ours if finding.effect is not None for end in _ends(finding.effect)]
        # An interval may be endless: it reaches no further than the means do, and as far again.
        inside = [min(max(end, -2 * most), 2 * most) for end in (*ends, *means)]
        low, high = min([0.0, *inside]), max([*(finding.part.margin for finding in ours), *inside])
        room = 0.06 * (high - low)
        self._low, self._width = low - room, high - low + 2 * room

    def __call__(self, value: float) -> float:
        return round(min(max(100 * (value - self._low) / self._width, 0.0), 100.0), 2)


def _ends(found: Interval) -> tuple[float, float]:
    return (
        found.mean if found.low is None else found.low,
        found.mean if found.high is None else found.high,
    )


def _bar(finding: "Finding", scale: _Scale) -> Bar:
    part, found = finding.part, finding.effect
    low, high = (None, None) if found is None else _ends(found)
    seeds = f"{finding.seeds} seed{'' if finding.seeds == 1 else 's'}" if finding.seeds else "nothing measured"
    return Bar(
        name=part.name,
        text=part.says,
        told=effect(found, part.unit),
        aside=f"needed: {margin(part)} · {seeds}",
        badge=_badge(finding.ruling),
        zero=scale(0.0),
        mark=scale(part.margin),
        low=None if low is None else scale(low),
        mean=None if found is None else scale(found.mean),
        high=None if high is None else scale(high),
    )


def _numbers(claim: "ClaimText", places: Sequence[Place]) -> Table:
    """Each metric of the claim's table, by arm and place."""
    keys = list(dict.fromkeys(key for place in places for key in place.where))
    # A rate that is no value of the place was chosen for it.
    chosen = any(place.lr is not None and place.lr not in place.where.values() for place in places)
    rates = ("learning rate",) if chosen else ()
    rows = [
        (
            place.arm,
            *(format_value(place.where[key]) if key in place.where else "" for key in keys),
            *((format_value(place.lr) if place.lr is not None else "",) if chosen else ()),
            *(amount(place.interval(column.metric), column.unit, column.digits) for column in claim.columns),
            str(max(map(len, place.values.values()), default=0)),
        )
        for place in places
    ]
    return Table(
        title="means over seeds ± 95 %",
        columns=("arm", *map(place_name, keys), *rates, *(column.heading for column in claim.columns), "seeds"),
        rows=tuple(rows),
        notes=("Learning rates were chosen on pictures apart from those of the test.",) if chosen else (),
    )


def _command(configuration: Mapping[str, Any], name: str) -> str:
    """The line that measures a claim again as it was."""
    line = ["truenorm", "claims", name, "--data", str(configuration.get("data", "digits"))]
    for option in ("data_root", "limit", "test_limit", "seeds"):
        if configuration.get(option) is not None:
            line += [f"--{option.replace('_', '-')}", str(configuration[option])]
    return shlex.join([*line, *(["--quick"] if configuration.get("quick") else [])])

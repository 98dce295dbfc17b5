r"""The rule that turns numbers into verdicts. It is the same for every claim.

Of each part of a claim the effect is taken seed by seed (positive is as the claim has it), and two questions are asked
by a t test over seeds, each at 5 % for the whole catalogue together (Holm):

    shown     is the effect above 0?
    too small is it below the margin, the smallest effect worth the claim's words?

A part holds if it is shown, not too small, and in the mean at least the margin; it does not if it is too small (or
the other way round); of any other nothing can be told. A claim holds if all its parts do, and does not if none does.
If some hold and others do not, or cannot be told, it depends: it is shown under conditions, which are said. Else
nothing is shown for it, though not all is refuted: it cannot be told.
The family is every part of every claim that the catalogue had when the record was made, measured or not: what else is
run, or added to the catalogue later, changes a verdict by no more than the order of its tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from truenorm.lab.claims.claim import ClaimText, Comparison
from truenorm.lab.claims.measured import MeasuredClaim
from truenorm.metrics.intervals import Interval, holm, paired
from truenorm.record import Record

Ruling = Literal["holds", "does not hold", "depends", "cannot tell"]

LEVEL = 0.05
"""How often, at most, a catalogue without any effect gives a false answer to one of the two questions."""

FEWEST = 3
"""Seeds below which nothing is told."""


_Key = tuple[str, str]
"""A claim and one of its parts, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one part.

    Args:
        part: of the claim.
        effect: mean and interval over seeds, None where no seed has one; its `p` is adjusted for the family.
        ruling: holds, does not hold or cannot tell.
        seeds: how many gave an effect.
    """

    part: Comparison
    effect: Interval | None
    ruling: Ruling
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found of a claim.

    Args:
        claim: which.
        ruling: holds, does not hold, depends or cannot tell.
        findings: part by part.
    """

    claim: ClaimText
    ruling: Ruling
    findings: tuple[Finding, ...]

    @property
    def condition(self) -> str:
        """For which parts it holds, for which it does not, and of which nothing can be told; "" where all agree."""
        parts: list[str] = []
        for ruling, words in (("holds", "holds for"), ("does not hold", "not for"), ("cannot tell", "undecided for")):
            names = [finding.part.name for finding in self.findings if finding.ruling == ruling]
            if names and len(names) < len(self.findings):
                parts.append(f"{words} {', '.join(names)}")
        return "; ".join(parts)


def verdicts(record: Record, claims: Sequence[MeasuredClaim]) -> tuple[Verdict, ...]:
    """The verdict of each claim that a record has numbers of.

    Args:
        record: of `truenorm claims`; the size of the family and of the test set are read from it.
        claims: to look for in it.
    """
    parts = {(claim.text.name, part.name): part for claim in claims for part in claim.text.parts}
    effects = {
        (claim.text.name, part.name): effect
        for claim in claims
        for part, effect in zip(claim.text.parts, claim.effects, strict=True)
    }
    step = 1 / record.configuration["images"]["test"]
    steps = {key: step if part.resolution == "one image" else part.resolution for key, part in parts.items()}
    family = record.configuration["family"]
    shown = _adjusted({key: _test(effect, 0.0, steps[key]) for key, effect in effects.items()}, family)
    small = _adjusted({key: _test(effect, parts[key].margin, steps[key]) for key, effect in effects.items()}, family)
    measured = {str(trial.get("claim")) for trial in record.trials.values()}
    return tuple(
        _verdict(
            text, [_finding(part, shown[text.name, part.name], small[text.name, part.name]) for part in text.parts]
        )
        for text in (claim.text for claim in claims)
        if text.name in measured
    )


def rule(rulings: Sequence[Ruling]) -> Ruling:
    """A claim's ruling from those of its parts.

    Example:
        >>> rule(["holds", "holds"]), rule(["holds", "cannot tell"]), rule(["does not hold", "cannot tell"])
        ('holds', 'depends', 'cannot tell')
    """
    if len(set(rulings)) == 1:
        return rulings[0]
    return "depends" if "holds" in rulings else "cannot tell"


def _verdict(claim: ClaimText, findings: Sequence[Finding]) -> Verdict:
    return Verdict(claim=claim, ruling=rule([found.ruling for found in findings]), findings=tuple(findings))


def _finding(part: Comparison, shown: Interval | None, small: Interval | None) -> Finding:
    seeds = 0 if shown is None else shown.n
    ruling: Ruling = "cannot tell"
    if shown is not None and small is not None and seeds >= FEWEST:
        if _beyond(small) and small.mean < 0:
            ruling = "does not hold"
        elif _beyond(shown) and shown.mean >= part.margin:
            ruling = "holds"
    return Finding(part=part, effect=shown, ruling=ruling, seeds=seeds)


def _beyond(test: Interval) -> bool:
    return test.p is not None and test.p < LEVEL


def _test(effect: Mapping[int, float], against: float, resolution: float) -> Interval | None:
    """Of the mean over seeds, less a value; None where there is none."""
    values = [effect[seed] for seed in sorted(effect)]
    return paired(values, [against] * len(values), resolution=resolution) if values else None


def _adjusted(tests: Mapping[_Key, Interval | None], family: int) -> dict[_Key, Interval | None]:
    """With p-values for the family: what was not measured counts as a test that showed nothing."""
    keys = {str(place): key for place, key in enumerate(tests)}
    found = {place: test for place, key in keys.items() if (test := tests[key]) is not None and test.p is not None}
    absent = {f"absent {place}": 1.0 for place in range(family - len(found))}
    adjusted = holm({place: test.p for place, test in found.items() if test.p is not None} | absent)
    return dict(tests) | {
        keys[place]: Interval(test.mean, test.half_width, test.n, adjusted[place]) for place, test in found.items()
    }

r"""The rule that turns numbers into verdicts. It is the same for every claim.

Of each part of a claim the effect is taken seed by seed (positive is as the claim has it), and two questions are asked
by a t test over seeds, each at 5 % for the whole catalogue together (Holm):

    shown     is the effect above 0?
    too small is it below the margin, the smallest effect worth the claim's words?

A part holds if it is shown, not too small, and in the mean at least the margin; it does not if it is too small (or
the other way round); of any other nothing can be told. The ruling of a claim is that of its primary part, which is
fixed in the catalogue by the words of the claim. The other parts do not change it: the verdict names those that are
ruled otherwise.

The family is every part of every claim that the catalogue had when the record was made, measured or not: what else is
run, or added to the catalogue later, changes a verdict by no more than the order of its tests. The primaries have no
smaller family of their own, though that would be usual and would show more. A verdict also names other parts that hold
or do not, so that these must be safe, too; a part has one ruling wherever it is shown; and the primaries of the first
fifteen claims were chosen after an earlier record had been seen: in the family of all parts that choice cannot make any
part hold that did not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from truenorm.lab.claims.claim import ClaimText, Comparison
from truenorm.lab.claims.measured import MeasuredClaim
from truenorm.metrics.intervals import Interval, holm, paired
from truenorm.record import Record

Ruling = Literal["holds", "does not hold", "cannot tell"]

LEVEL = 0.05
"""How often, at most, a catalogue without any effect gives a false answer to one of the two questions."""

FEWEST = 3
"""Seeds below which nothing is told."""


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
        findings: part by part.
    """

    claim: ClaimText
    findings: tuple[Finding, ...]

    @property
    def primary(self) -> Finding:
        """Of the part that decides the claim."""
        return next(finding for finding in self.findings if finding.part.name == self.claim.primary)

    @property
    def ruling(self) -> Ruling:
        """That of the primary part."""
        return self.primary.ruling

    @property
    def elsewhere(self) -> str:
        """The parts that are ruled otherwise: `holds for …; not for …; undecided for …`; "" where all agree."""
        parts: list[str] = []
        for ruling, words in (("holds", "holds for"), ("does not hold", "not for"), ("cannot tell", "undecided for")):
            names = [finding.part.name for finding in self.findings if finding.ruling == ruling != self.ruling]
            if names:
                parts.append(f"{words} {', '.join(names)}")
        return "; ".join(parts)


def verdicts(record: Record, claims: Sequence[MeasuredClaim]) -> tuple[Verdict, ...]:
    """The verdict of each claim that a record has numbers of.

    Args:
        record: of `truenorm claims`; the size of the family and of the test set are read from it.
        claims: to look for in it.
    """
    family, image = record.configuration["family"], 1 / record.configuration["images"]["test"]
    parts = [part for claim in claims for part in zip(claim.text.parts, claim.effects, strict=True)]
    shown = _adjusted([_test(part, effect, 0.0, image) for part, effect in parts], family)
    small = _adjusted([_test(part, effect, part.margin, image) for part, effect in parts], family)
    findings = iter([_finding(part, *tests) for (part, _), *tests in zip(parts, shown, small, strict=True)])
    of_claims = [(claim.text, tuple(islice(findings, len(claim.text.parts)))) for claim in claims]
    measured = {str(trial.get("claim")) for trial in record.trials.values()}
    return tuple(Verdict(claim=text, findings=of_claim) for text, of_claim in of_claims if text.name in measured)


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


def _test(part: Comparison, effect: Mapping[int, float], against: float, image: float) -> Interval | None:
    """Of the mean effect over seeds, less a value; None where there is none. `image` is the share of one image."""
    values = [effect[seed] for seed in sorted(effect)]
    resolution = image if part.resolution == "one image" else part.resolution
    return paired(values, [against] * len(values), resolution=resolution) if values else None


def _adjusted(tests: Sequence[Interval | None], family: int) -> list[Interval | None]:
    """With p-values for the family: what was not measured counts as a test that showed nothing."""
    p_values = {str(place): test.p for place, test in enumerate(tests) if test is not None and test.p is not None}
    absent = {f"absent {place}": 1.0 for place in range(family - len(p_values))}
    adjusted = holm(p_values | absent)
    return [test and replace(test, p=adjusted.get(str(place))) for place, test in enumerate(tests)]

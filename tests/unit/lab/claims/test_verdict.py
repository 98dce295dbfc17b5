"""The rule: what numbers make which verdict. The truth is planted; how often the rule is wrong, experiments/verdicts.py says."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truenorm.errors import InvalidInput
from truenorm.lab.claims.catalogue import CLAIMS
from truenorm.lab.claims.claim import Part
from truenorm.lab.claims.measured import measured_claims
from truenorm.lab.claims.verdict import Finding, Verdict, verdicts
from truenorm.record import Measurement, Record

FAMILY = 50
NAMES = ("small", "large")


def part(name, margin=1.0, resolution=0.0):
    return Part(
        name=name,
        says="batch norm over none",
        effect=lambda evidence: evidence.difference("score", "bn", "none", place=name),
        margin=margin,
        unit="plain",
        resolution=resolution,
    )


CLAIM = replace(CLAIMS[0], name="planted", parts=tuple(part(name) for name in NAMES), primary="small")


def record(effects, *, noise=0.5, seed=0, family=FAMILY, test=1000):
    """Numbers of five seeds and two arms, whose difference is the effect and noise; levels of seeds differ widely."""
    draw = random.Random(seed)
    rows, trials = [], {}
    for place, effect in effects.items():
        for number in range(5):
            level = draw.gauss(0, 20)
            for arm, value in (("none", level), ("bn", level + effect + draw.gauss(0, noise))):
                name = f"{place}-{arm}-{number}"
                trials[name] = {"claim": "planted", "arm": arm, "seed": number, "where": {"place": place}, "lr": 0.1}
                rows.append(Measurement(name, arm, None, "score", value))
    configuration = {"claims": ["planted"], "family": family, "images": {"test": test}}
    return Record(command="", rows=tuple(rows), trials=trials, configuration=configuration)


def found(record, claim=CLAIM):
    (verdict,) = verdicts(record, measured_claims(record, [claim]))
    return verdict


def rulings(record, claim=CLAIM):
    return [finding.ruling for finding in found(record, claim).findings]


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_effect_is_found_at_five_seeds_and_none_is_where_none_was(seed):
    assert rulings(record({"small": 5.0, "large": 0.0}, seed=seed))[0] == "holds"
    assert rulings(record({"small": 0.0, "large": 0.0}, seed=seed)) != ["holds", "holds"]
    assert "holds" not in rulings(record({"small": 0.0, "large": -5.0}, seed=seed))


def test_of_many_without_an_effect_hardly_any_holds_and_none_with_one_is_refuted():
    nothing = [rulings(record(dict.fromkeys(NAMES, 0.0), seed=seed)) for seed in range(200)]
    assert sum("holds" in each for each in nothing) <= 2  # 0.2 are expected: 100 tests of 0.05 / 50, two-sided
    planted = [rulings(record(dict.fromkeys(NAMES, 5.0), seed=seed)) for seed in range(200)]
    assert sum(each == ["holds", "holds"] for each in planted) >= 195
    assert not any("does not hold" in each for each in planted)


def test_the_verdict_follows_the_numbers_and_nothing_else():
    holds = record({"small": 6.0, "large": 6.0})
    verdict = found(holds)
    assert (verdict.ruling, verdict.elsewhere) == ("holds", "")
    turned = replace(holds, rows=tuple(replace_arm(row) for row in holds.rows))
    assert found(turned).ruling == "does not hold"
    one = replace(holds, rows=tuple(replace_arm(row) if row.trial.startswith("large") else row for row in holds.rows))
    assert (found(one).ruling, found(one).elsewhere) == ("holds", "not for large")
    other = found(one, replace(CLAIM, primary="large"))
    assert (other.ruling, other.elsewhere) == ("does not hold", "holds for small")
    assert other.findings == found(one).findings
    noisy = record({"small": 6.0, "large": 6.0}, noise=10.0)
    assert (found(noisy).ruling, found(noisy).elsewhere) == ("cannot tell", "")


def replace_arm(row):
    """The other way round."""
    return replace(row, value=-row.value)


def test_an_effect_that_is_shown_but_too_small_does_not_hold():
    tiny = record({"small": 0.3, "large": 0.3}, noise=0.01)
    assert rulings(tiny) == ["does not hold", "does not hold"]
    strict = replace(CLAIM, parts=tuple(part(name, margin=0.1) for name in NAMES))
    assert rulings(tiny, strict) == ["holds", "holds"]


def test_an_effect_that_is_shown_but_below_the_margin_in_the_mean_is_none_to_be_told_of():
    def of(*effects):
        whole = replace(record({"small": 0.0}, noise=0.0), configuration=family(2))
        values = {f"small-bn-{seed}": effect for seed, effect in enumerate(effects)}
        return replace(whole, rows=tuple(replace(row, value=values.get(row.trial, 0.0)) for row in whole.rows))

    below, above = of(0.4, 0.6, 0.8, 1.0, 1.2), of(0.8, 1.0, 1.2, 1.4, 1.6)
    assert found(below).findings[0].effect.p < 0.05  # above 0
    assert rulings(below)[0] == "cannot tell"
    assert rulings(above)[0] == "holds"


def family(size):
    return {"claims": ["planted"], "family": size, "images": {"test": 1000}}


def test_between_nothing_and_the_margin_with_much_noise_nothing_can_be_told():
    assert rulings(record({"small": 0.5, "large": 0.5}, noise=1.0)) == ["cannot tell", "cannot tell"]


def test_the_larger_the_family_the_more_it_takes():
    numbers = record({"small": 2.5, "large": 0.0}, noise=0.8, family=2)
    assert rulings(numbers)[0] == "holds"
    assert rulings(replace(numbers, configuration=dict(numbers.configuration) | {"family": 2000}))[0] == "cannot tell"
    p = {size: found(record({"small": 2.5, "large": 0.0}, family=size)).findings[0].effect.p for size in (2, 50)}
    assert p[50] == pytest.approx(25 * p[2])


def test_what_is_not_measured_counts_in_the_family_as_often_as_it_would():
    both, alone = record({"small": 5.0, "large": 0.0}), record({"small": 5.0})
    assert found(alone).findings[0].effect.p == pytest.approx(found(both).findings[0].effect.p)
    assert found(alone).findings[1].effect is None
    assert rulings(alone) == ["holds", "cannot tell"]
    assert (found(alone).ruling, found(alone).elsewhere) == ("holds", "undecided for large")


def test_two_seeds_tell_nothing_however_clear_they_are():
    whole = record({"small": 1000.0, "large": 1000.0}, noise=0.001)
    rows = tuple(row for row in whole.rows if int(row.trial[-1]) < 2)
    assert rulings(replace(whole, rows=rows)) == ["cannot tell", "cannot tell"]


def test_five_differences_of_the_same_one_image_are_no_certainty():
    steps = replace(CLAIM, primary="small", parts=(part("small", margin=0.01, resolution="one image"),))
    same = record({"small": 0.001}, noise=0.0)
    assert rulings(same, replace(steps, parts=(part("small", margin=0.0001),))) == ["holds"]
    assert rulings(same, replace(steps, parts=(replace(steps.parts[0], margin=0.0001),))) == ["cannot tell"]
    assert rulings(record({"small": 0.001}, noise=0.0, test=10**6), steps) == ["does not hold"]


@given(st.lists(st.sampled_from(["holds", "does not hold", "cannot tell"]), min_size=1, max_size=6), st.data())
def test_the_primary_decides_and_the_others_are_named_where_they_differ(parts, data):
    place = data.draw(st.integers(0, len(parts) - 1))
    claim = replace(CLAIM, parts=tuple(part(f"part {n}") for n in range(len(parts))), primary=f"part {place}")
    findings = tuple(
        Finding(part=each, effect=None, ruling=ruling, seeds=0) for each, ruling in zip(claim.parts, parts, strict=True)
    )
    verdict = Verdict(claim=claim, findings=findings)
    assert verdict.ruling == parts[place]
    named = {name for group in verdict.elsewhere.split("; ") for name in group.partition("for ")[2].split(", ") if name}
    assert named == {f"part {n}" for n, ruling in enumerate(parts) if ruling != parts[place]}


def test_a_primary_that_is_no_comparison_is_refused():
    with pytest.raises(InvalidInput, match="the primary of planted, 'smal', is not one of its comparisons"):
        replace(CLAIM, primary="smal")


@given(st.floats(-50, 50), st.integers(0, 100))
def test_a_level_that_arms_share_does_not_matter(level, seed):
    numbers = record({"small": 3.0, "large": -3.0}, seed=seed)
    moved = replace(numbers, rows=tuple(replace(row, value=row.value + level) for row in numbers.rows))
    assert rulings(moved) == rulings(numbers)
    first, second = (found(one).findings[0].effect.mean for one in (moved, numbers))
    assert math.isclose(first, second, abs_tol=1e-9)

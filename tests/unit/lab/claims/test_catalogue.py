"""What every claim of the catalogue must be: a contract, parametrised over all of them."""

import inspect
import json
import math
from dataclasses import fields, replace

import pytest

from truenorm.errors import UnknownName
from truenorm.lab.claims.catalogue import CLAIMS, FAMILY, named
from truenorm.lab.claims.claim import Claim
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.measured import measured_claims
from truenorm.lab.claims.verdict import verdicts
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.record import Measurement, Record

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "quick"])
def context(request):
    images = load("digits")
    return ClaimsContext(images, Scale.of(images.train.images), request.param)


def made_up(claim, context, *, seeds=5, keep=lambda arm, where: True, value=lambda arm, seed: 0.5):
    """A record with a number for every metric that the claim draws, tables or compares."""
    metrics = {claim.picture.metric, *(column.metric for column in claim.columns), "loss", "nll", "accuracy"}
    rows, trials = [], {}
    for cell in claim.cells(context):
        for seed in range(seeds):
            name = f"{cell.arm}-{json.dumps(cell.where)}-{seed}"
            trials[name] = {"claim": claim.name, "arm": cell.arm, "seed": seed, "where": dict(cell.where), "lr": 0.1}
            for arm in claim.arms:
                if keep(arm, cell.where):
                    rows += [Measurement(name, arm, None, metric, value(arm, seed)) for metric in metrics]
    configuration = {"claims": [claim.name], "family": FAMILY, "images": {"test": 359}}
    return Record(command="", rows=tuple(rows), trials=trials, configuration=configuration)


def judged(record):
    return verdicts(record, measured_claims(record, CLAIMS))


def test_all_twenty_one_are_there():
    assert [claim.number for claim in CLAIMS] == list(range(1, 22))


def test_a_name_is_one_claim_and_a_part_one_comparison():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert len({claim.title for claim in CLAIMS}) == len(CLAIMS)
    assert sum(len({part.name for part in claim.parts}) for claim in CLAIMS) == FAMILY


def test_claims_by_name_come_in_the_order_of_the_catalogue():
    assert named([]) == CLAIMS
    last, first = CLAIMS[-1], CLAIMS[0]
    assert named([last.name, first.name, last.name]) == (first, last)
    with pytest.raises(UnknownName, match="unknown claim 'faster'"):
        named(["faster"])


@every_claim
def test_everything_is_said(claim):
    for field in fields(Claim):
        value = getattr(claim, field.name)
        assert value, field.name
        if isinstance(value, str) and field.name not in ("name", "title", "literature_verdict", "primary"):
            assert value.rstrip("”").endswith((".", "?")), field.name
            assert "  " not in value
    assert all(0 < part.margin < math.inf and part.says for part in claim.parts)


@every_claim
def test_a_file_of_its_own(claim):
    files = {inspect.getsourcefile(inspect.unwrap(function)) for function in (claim.cells, claim.run)}
    assert len(files) == 1
    assert [inspect.getsourcefile(other.run) in files for other in CLAIMS].count(True) == 1


@every_claim
def test_no_cell_is_there_twice_and_all_are_of_arms(claim, context):
    cells = claim.cells(context)
    assert len({(cell.arm, json.dumps(cell.where, sort_keys=True)) for cell in cells}) == len(cells)
    assert {cell.arm for cell in cells} <= set(claim.arms)
    assert all(cell.steps >= 1 and list(cell.lrs) == sorted(set(cell.lrs)) for cell in cells)
    for key in (claim.picture.x, claim.picture.panels, *claim.picture.at):
        assert key is None or all(key in cell.where for cell in cells)


@every_claim
def test_without_numbers_nothing_can_be_told(claim):
    trials = {"t": {"claim": claim.name, "arm": "bn", "seed": 0, "where": {}, "lr": None}}
    configuration = {"claims": [claim.name], "family": FAMILY, "images": {"test": 359}}
    (verdict,) = judged(Record(command="", trials=trials, configuration=configuration))
    assert verdict.ruling == "cannot tell"
    assert all(finding.effect is None for finding in verdict.findings)


@every_claim
def test_half_of_the_numbers_raises_nothing(claim, context):
    arms = list(claim.arms)
    for lost in arms:
        record = made_up(claim, context, keep=lambda arm, where, lost=lost: arm != lost)
        assert len(judged(record)) == 1
    whole = made_up(claim, context)
    for cut in (1, len(whole.rows) // 3, len(whole.rows) - 1):
        assert len(judged(replace(whole, rows=whole.rows[:cut]))) == 1


@every_claim
def test_every_part_finds_its_numbers(claim, context):
    """With numbers for every metric, arm and place each part has an effect in every seed, unless quick leaves it out."""
    draw = iter(range(10**9))
    record = made_up(
        claim, context, value=lambda arm, seed: 0.9 + 0.06 * (arm == "none") + 0.01 * (next(draw) * 7919 % 1000) / 1000
    )
    (verdict,) = judged(record)
    assert all(finding.effect is not None and finding.seeds == 5 for finding in verdict.findings), verdict.elsewhere

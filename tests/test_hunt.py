"""The hunt for 0.853: what is planted in a record is found, and a small hunt on digits is whole and goes on."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot

from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.context import ClaimsContext
from truenorm.lab.claims.evidence import Evidence
from truenorm.lab.images.feed import Scale
from truenorm.lab.images.sets import load
from truenorm.lab.report.claims.page import claims_page
from truenorm.lab.report.claims.record import read_claims
from truenorm.record import Measurement, Record

FILE = Path(__file__).parents[1] / "experiments" / "hunt.py"
SMALL = ClaimsConfig(limit=130, test_limit=50, seeds=5, quick=True)


def experiment():
    spec = importlib.util.spec_from_file_location("hunt", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


hunt = experiment()


@pytest.fixture(scope="module")
def context():
    images = load("digits", limit=130)
    return ClaimsContext(images, Scale.of(images.train.images))


def planted(gaps=None, dmbn=0.889, noise=0.001):
    """A record in which DMBN has one accuracy, and the BN-BFN trained under a protocol is below it by a gap."""
    rows, trials = [], {}
    for name in hunt.PROTOCOLS:
        for network, arms in hunt.STATISTICS.items():
            if hunt.trained_under(name, network) != name:
                continue
            for seed in range(5):
                key = f"{name}-{network}-{seed}"
                trials[key] = {
                    "claim": hunt.NAME,
                    "arm": network,
                    "seed": seed,
                    "where": {"protocol": name},
                    "lr": 0.125 if network == "bn" else 0.5,
                }
                value = dmbn if network == "bn" else dmbn - (gaps or {}).get(name, 0.0) + noise * (seed - 2)
                rows += [Measurement(key, arm, None, "accuracy", value, None, 10_000) for arm in arms]
    images = {"name": "digits", "train": 1198, "validation": 239, "test": 10_000}
    configuration = {"claims": [hunt.NAME], "family": len(hunt.PROTOCOLS), "images": images}
    return Record(command="python experiments/hunt.py", rows=tuple(rows), trials=trials, configuration=configuration)


def found(record):
    return {each.name: each for each in hunt.findings(record)}


def test_there_are_as_many_protocols_as_were_asked_for_and_the_base_is_first():
    rounds = [protocol.round for protocol in hunt.PROTOCOLS.values()]
    assert 16 <= rounds.count(1) <= 24 and rounds == sorted(rounds)
    assert next(iter(hunt.PROTOCOLS)) == "base"
    assert [part.name for part in hunt.HUNT.parts] == [*hunt.PROTOCOLS]
    assert not any("," in name for name in hunt.PROTOCOLS)  # names are listed with commas


def test_each_network_of_each_protocol_is_trained_once(context):
    cells = [(cell.arm, cell.where["protocol"]) for cell in hunt.cells(context)]
    assert len(cells) == len(set(cells))
    for name, protocol in hunt.PROTOCOLS.items():
        for network, arm in zip(("bn", "bn-bfn"), protocol.arms, strict=True):
            assert arm in hunt.STATISTICS[network]
            assert (network, hunt.trained_under(name, arm)) in cells
    assert hunt.trained_under("groups of 4", "dmbn") == hunt.trained_under("a pass for both", "bn-bfn-pass") == "base"
    assert hunt.trained_under("groups of 4", "bn-bfn") == "groups of 4"
    assert hunt.trained_under("batch 4", "dmbn") == "batch 4"


def test_rates_and_epochs_are_those_of_the_setting_and_equal_for_both_networks(context):
    cells = {(cell.arm, cell.where["protocol"]): cell for cell in hunt.cells(context)}
    for name, protocol in hunt.PROTOCOLS.items():
        both = [cells[network, hunt.trained_under(name, network)] for network in hunt.STATISTICS]
        assert {cell.lrs for cell in both} == {protocol.setting.lrs}
        assert len({cell.steps for cell in both}) == 1


@pytest.mark.parametrize("name", ["groups of 8", "groups of 4", "groups of 2", "groups of 1", "base"])
def test_batch_norm_and_groups_of_the_width_take_turns(name):
    make = hunt.PROTOCOLS[name].norms.layers()
    norms = [make(128) for _ in range(4)]
    width = hunt.PROTOCOLS[name].norms.width or 128
    assert [getattr(norm, "num_groups", None) for norm in norms] == [None, 128 // width, None, 128 // width]


def test_instance_norm_gives_0_for_vectors_and_groups_of_2_give_signs():
    x = torch.randn(5, 128)
    of_1, of_2 = (hunt.Norms(order=("bfn",), width=width).layers()(128) for width in (1, 2))
    assert of_1(x).abs().max() < 1e-3  # what is left is rounding
    assert (of_2(x).abs() > 0.9).double().mean() > 0.9


def test_what_is_reported_is_recognised_by_gap_and_by_accuracy():
    gaps = {"groups of 4": 0.036, "groups of 2": 0.1, "batch 4": -0.2, "3 epochs": 0.015}
    those = found(planted(gaps))
    assert those["groups of 4"].as_reported and those["groups of 4"].gap.mean == pytest.approx(0.036)
    assert those["groups of 2"].above_otherwise and those["3 epochs"].above_otherwise
    assert those["batch 4"].below and not those["batch 4"].above
    assert not those["base"].shown
    assert {name for name, each in those.items() if not each.excluded} == {"groups of 4", "groups of 2"}
    assert those["groups of 4"].rates == (0.125, 0.5)
    elsewhere = found(planted(gaps, dmbn=0.80))["groups of 4"]
    assert elsewhere.above and elsewhere.in_window and not elsewhere.as_reported


def test_p_values_are_adjusted_for_all_protocols():
    gaps = {"1 epoch": 0.003}
    mine = found(planted(gaps, noise=0.0012))
    p = {name: each.gap.p for name, each in mine.items()}
    # A t of 3.5 with 4 degrees of freedom is below 0.05 alone, and not as the first of 24.
    assert p["1 epoch"] > 0.05 and not mine["1 epoch"].shown
    assert p["1 epoch"] == min(p.values())
    assert mine["1 epoch"].gap.low > 0


def test_the_same_weights_give_the_gaps_of_their_statistics():
    record = planted()
    changed = [
        replace(row, value=row.value - 0.03) if row.arm == "bn-bfn-0.9" and row.trial.startswith("base-") else row
        for row in record.rows
    ]
    those = found(replace(record, rows=tuple(changed)))
    assert those["momentum 0.9"].gap.mean == pytest.approx(0.03)
    assert abs(those["base"].gap.mean) < 1e-9
    assert abs(those["constant rate with momentum 0.9"].gap.mean) < 1e-9


def test_what_gave_no_number_is_shown_as_nothing():
    record = planted()
    those = found(
        replace(record, rows=tuple(row for row in record.rows if not row.trial.startswith("tutorial-bn-bfn")))
    )
    assert those["tutorial"].gap is None and those["tutorial"].bn_bfn is None
    assert not those["tutorial"].shown and not those["tutorial"].in_window
    assert those["tutorial"].dmbn.mean == pytest.approx(0.889)


def test_the_sentence():
    gaps = {"groups of 4": 0.036, "groups of 2": 0.1, "batch 4": -0.2, "groups of 2 in 256-128 at low rates": 0.04}
    assert hunt.conclusion(hunt.findings(planted(gaps))) == snapshot(
        "As the dissertation reports (DMBN near 88.9 %, 2.5 to 4.7 points above BN-BFN): 1 of the 24 protocols of the first round, which was fixed before any result (groups of 4 +3.60 ± 0.20); 1 of the 3 protocols of the second, which was chosen after the first (groups of 2 in 256-128 at low rates +4.00 ± 0.20). DMBN is shown to be above BN-BFN, but not as reported, under 1: groups of 2 +10.00 ± 0.20. DMBN is shown to be below BN-BFN under 1: batch 4 -20.00 ± 0.20. A gap of 2.5 points or more is excluded under 24. The search is exploratory: it was made to find such a gap. A protocol that gives it may or may not be the dissertation's; only that protocol, which is not published, could tell."
    )
    nothing = hunt.conclusion(hunt.findings(planted()))
    assert "none of the 24 protocols of the first round" in nothing and "none of the 3 protocols of the sec" in nothing


@pytest.mark.slow
def test_a_small_hunt_is_whole_and_goes_on(tmp_path, capsys):
    record = hunt.hunt(SMALL, command="python experiments/hunt.py", out=tmp_path)
    assert record.complete and record.configuration["family"] == len(hunt.PROTOCOLS)
    evidence = Evidence(record, hunt.NAME)
    for name, protocol in hunt.PROTOCOLS.items():
        for arm in protocol.arms:
            values = evidence.by_seed("accuracy", arm, protocol=hunt.trained_under(name, arm))
            assert sorted(values) == [0, 1, 2, 3, 4], (name, arm)
        assert sorted(hunt.gap(name)(evidence)) == [0, 1, 2, 3, 4]
    assert evidence.by_seed("accuracy", "bn-bfn", protocol="groups of 1").keys() == {0, 1, 2, 3, 4}
    assert not evidence.by_seed("accuracy", "bn-bfn-pass", protocol="every norm batch-free")
    table = (tmp_path / "table.txt").read_text()
    assert table == hunt.printed(Record.load(tmp_path)) and all(name in table for name in hunt.PROTOCOLS)
    assert "of the 24 protocols of the first round" in " ".join(table.split())
    (took,) = record.configuration["took"]
    assert took["seconds"] > 0 and took["trials finished before"] == 0
    # Again, nothing is trained, and the time is that of the training.
    capsys.readouterr()
    assert hunt.hunt(SMALL, command="python experiments/hunt.py", out=tmp_path).dumps() == record.dumps()
    assert "trials were finished before" in capsys.readouterr().err
    page = claims_page(read_claims(record))
    assert "python experiments/hunt.py" in page and "truenorm claims hunt" not in page

"""Claims measured: rates chosen apart, trials done once, one record."""

from dataclasses import replace

import pytest
import torch
from inline_snapshot import snapshot

from truenorm.errors import Diverged, InvalidInput
from truenorm.lab.claims.catalogue import CLAIMS, FAMILY, named
from truenorm.lab.claims.claim import Cell
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.run import TUNING_SEEDS, run_claims
from truenorm.record import Record

pytestmark = pytest.mark.slow  # processes that train

SMALL = ClaimsConfig(limit=60, test_limit=40, seeds=5)
RATES = (0.1, 0.2, 0.4)
BEST = {"bn": 0.2, "none": 0.4}


def score(trial):
    """Best at one rate; the tuning seeds differ."""
    return -abs(trial.lr - BEST[trial.arm]) - 0.001 * trial.seed


class Lab:
    """A claim that trains nothing, and what was asked of it."""

    def __init__(self):
        self.done = []
        self.fails = lambda trial: False
        self.claim = replace(CLAIMS[0], name="lab", cells=self.cells, run=self.run)

    def cells(self, context):
        return [Cell(arm=arm, where={"place": place}, lrs=RATES, steps=2) for place in ("a", "b") for arm in BEST]

    def run(self, trial, context, on_step):
        self.done.append(trial)
        on_step()
        if self.fails(trial):
            raise Diverged("the loss is nan; try a smaller --lr")
        on_step()
        yield trial.row("score", score(trial) if trial.tuning else float(torch.rand(())))


@pytest.fixture
def lab():
    return Lab()


@pytest.fixture
def run(tmp_path, lab):
    def run(config=SMALL, claims=None, **options):
        claims = claims or (lab.claim,)
        return run_claims(config, claims, command="truenorm claims", out=tmp_path / "out", **options)

    return run


def test_each_arm_has_its_best_rate_by_seeds_of_its_own(run, lab):
    record = run()
    tuning = [trial for trial in lab.done if trial.tuning]
    assert {trial.seed for trial in tuning} == set(TUNING_SEEDS)
    assert {trial.seed for trial in lab.done if not trial.tuning} == set(range(5))
    assert len(tuning) == 2 * 2 * 3 * 2
    assert {(trial["arm"], trial["lr"]) for trial in record.trials.values()} == set(BEST.items())
    assert len(record.trials) == 2 * 2 * 5
    assert record.complete
    assert record.configuration["family"] == FAMILY


def test_the_family_of_claims_that_are_not_of_the_catalogue_is_their_own(run):
    assert run(family=3).configuration["family"] == 3


def test_a_rate_at_which_a_tuning_seed_fails_is_not_taken(run, lab):
    lab.fails = lambda trial: trial.tuning and trial.arm == "bn" and trial.lr == 0.2 and trial.seed == TUNING_SEEDS[1]
    record = run()
    assert {trial["lr"] for trial in record.trials.values() if trial["arm"] == "bn"} == {0.1}


def test_the_worst_tuning_seed_counts(run, lab):
    real = lab.run

    def cliff(trial, context, on_step):
        for row in real(trial, context, on_step):
            bad = trial.tuning and trial.lr == BEST[trial.arm] and trial.seed == TUNING_SEEDS[0]
            yield replace(row, value=-10.0) if bad else row

    record = run(claims=(replace(lab.claim, run=cliff),))
    assert not {(trial["arm"], trial["lr"]) for trial in record.trials.values()} & set(BEST.items())


def test_an_arm_that_fails_at_every_rate_is_left_out_and_the_others_go_on(run, lab):
    lab.fails = lambda trial: trial.arm == "none"
    record = run()
    assert {trial["arm"] for trial in record.trials.values()} == {"bn"}
    assert record.complete


def test_a_trial_that_diverges_is_kept_with_the_reason_and_has_no_rows(run, lab):
    lab.fails = lambda trial: trial.seed == 3
    record = run()
    lost = {name: trial for name, trial in record.trials.items() if "diverged" in trial}
    assert len(lost) == 4
    assert {trial["diverged"] for trial in lost.values()} == {"the loss is nan"}
    assert not {row.trial for row in record.rows} & set(lost)


def test_a_best_rate_at_the_edge_of_the_grid_is_said(run, lab):
    assert run().notes[-1] == snapshot(
        "lab: best rate at the edge of those tried, a better one may lie beyond: none (a); none (b)"
    )


def test_it_goes_on_where_it_was_broken_off_and_ends_with_the_same_record(run, lab, tmp_path):
    whole = run().dumps()
    (tmp_path / "out").rename(tmp_path / "whole")
    lab.done.clear()

    def interrupt(trial):
        if len(lab.done) == 33:
            raise KeyboardInterrupt

    lab.fails = interrupt
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not Record.load(tmp_path / "out").complete
    lab.fails, before = lambda trial: False, len(lab.done)
    told = []
    assert run(resumed=lambda finished, total: told.append((finished, total))).dumps() == whole
    assert told == [(32, 44)]
    assert len(lab.done) == before + 12
    lab.done.clear()
    assert run().dumps() == whole
    assert lab.done == []


def test_progress_counts_every_step_once(run, lab):
    told = []
    run(progress=lambda what, done, total: told.append((what, done, total)))
    steps = [(done, total) for what, done, total in told if what.startswith("lab")]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (88, 88)
    assert any(what == "lab, bn, a, seed 0" for what, _, _ in told)
    assert any(what == "lab, bn, b, trying rate 0.4" for what, _, _ in told)


def test_what_a_trial_draws_is_its_seeds_and_the_global_state_stays(run):
    torch.manual_seed(11)
    expected = torch.rand(())
    torch.manual_seed(11)
    record = run()
    assert torch.rand(()) == expected
    drawn = {}
    for row in record.rows:
        drawn.setdefault(record.trials[row.trial]["seed"], set()).add(row.value)
    assert all(len(values) == 1 for values in drawn.values())
    assert len(set.union(*drawn.values())) == 5


def test_other_data_or_another_size_are_other_trials(run, lab):
    run()
    first = len(lab.done)
    run(replace(SMALL, limit=61))
    assert len(lab.done) == 2 * first
    run(replace(SMALL, quick=True))
    assert len(lab.done) > 2 * first


def test_two_processes_give_what_one_gives(run, tmp_path):
    claims, config = named(["per-sample"]), replace(SMALL, limit=None)
    one = run(config, claims)
    (tmp_path / "out").rename(tmp_path / "one")
    two = run_claims(config, claims, command="truenorm claims", out=tmp_path / "out", processes=2)
    assert two.dumps() == one.dumps()


def test_fewer_seeds_than_can_show_anything_are_refused():
    with pytest.raises(InvalidInput) as caught:
        replace(SMALL, seeds=4)
    assert str(caught.value) == snapshot("--seeds is 4; it takes 5 or more: fewer can hardly show anything")


def test_a_real_claim_gives_the_same_numbers_again(run, tmp_path):
    config, claims = ClaimsConfig(limit=100, test_limit=50, quick=True), named(["gradients"])
    first = run_claims(config, claims, command="a", out=tmp_path / "first")
    second = run_claims(config, claims, command="a", out=tmp_path / "second")
    assert first.rows == second.rows
    assert len(first.rows) > 100

"""A grid of trials that is broken off, shared, damaged: it ends as if nothing had happened."""

import os
import random
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from truenorm.lab.claims.catalogue import named
from truenorm.lab.claims.configuration import ClaimsConfig
from truenorm.lab.claims.run import run_claims
from truenorm.lab.jobs.store import Store
from truenorm.lab.study import study
from truenorm.lab.study.configuration import StudyConfig
from truenorm.lab.study.study import run_study
from truenorm.record import Record

pytestmark = pytest.mark.slow  # processes that are killed

GRID = StudyConfig(
    limit=120,
    test_limit=60,
    epochs=2,
    networks=("mlp",),
    widths=(16, 12),
    batch_sizes=(16, 32),
    schedules=("cosine", "constant"),
    seeds=3,
    arms=("dmbn", "adaptive", "gn"),
    momenta=(0.01, 0.5),
)
"""4 settings, 24 trials."""

COMMAND = "truenorm study --grid"


def ran(out, config=GRID, progress=lambda what, done, total: None):
    """Run a study, or the cheapest claim of the catalogue; the bytes of its record."""
    if isinstance(config, ClaimsConfig):
        run_claims(config, named(["per-sample"]), command=COMMAND, out=out, progress=progress)
    else:
        run_study(config, command=COMMAND, out=out, progress=progress)
    return (out / "record.json").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def keeping(monkeypatch):
    """Every epoch's end is kept, however short the epoch."""
    monkeypatch.setattr(study, "Store", partial(Store, keep_every=0.0))


def in_a_process(work):
    """Run in a process of its own; the signal that ended it, 0 if none did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def killed_at(moment, out, config=GRID):
    """The study in a process that kills itself at its so many-th step, or writing or renaming of a file."""
    passed = 0

    def count(*_):
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        replace_file, sync = os.replace, os.fsync

        def counting(function):
            def counted(*args):
                count()
                function(*args)
                count()

            return counted

        os.replace, os.fsync = counting(replace_file), counting(sync)
        ran(out, config, progress=count)

    return in_a_process(work)


def test_killed_at_ten_random_moments_it_ends_with_the_undisturbed_record(tmp_path, undisturbed, keeping):
    chance = random.Random(12)
    finished = 0
    for _ in range(10):
        assert killed_at(chance.randint(1, 120), tmp_path) == signal.SIGKILL
        now = len(list((tmp_path / "trials").glob("*.json")))
        assert now >= finished  # what was finished stays
        finished = now
        if (tmp_path / "record.json").exists():
            assert not Record.load(tmp_path).complete
    assert 0 < finished < 24
    assert ran(tmp_path) == undisturbed


def test_claims_killed_at_random_moments_end_with_the_undisturbed_record(tmp_path):
    config = ClaimsConfig(limit=120, test_limit=60, quick=True)
    whole = ran(tmp_path / "whole", config)
    jobs = len(list((tmp_path / "whole" / "trials").glob("*.json")))
    chance, out = random.Random(7), tmp_path / "broken"
    ends = [killed_at(chance.randint(2, 3 * jobs), out, config) for _ in range(4)]
    assert ends[0] == signal.SIGKILL
    assert 0 < len(list((out / "trials").glob("*.json"))) <= jobs
    assert ran(out, config) == whole


def test_a_trial_of_three_epochs_killed_after_its_second_goes_on_to_the_same_bits(tmp_path, keeping):
    config = replace(GRID, batch_sizes=(16,), schedules=("cosine",), seeds=1, epochs=3, arms=("all",))
    ran(tmp_path / "whole", config)
    steps = 8  # of an epoch: 120 images, 16 a batch
    seen = []

    def die_in_the_third_epoch(what, done, total):
        if done == 2 * steps + 3:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_process(lambda: ran(tmp_path / "broken", config, die_in_the_third_epoch)) == signal.SIGKILL
    (kept,) = (tmp_path / "broken" / "trials").glob("*.pt")
    assert len(torch.load(kept, weights_only=True)["training"]["losses"]) == 2
    again = ran(tmp_path / "broken", config, lambda what, done, total: seen.append(what))
    assert again == (tmp_path / "whole" / "record.json").read_bytes()
    assert seen.count("bn, seed 0") == steps + 1  # one epoch, and the end
    assert not list((tmp_path / "broken" / "trials").glob("*.pt"))


def test_two_processes_share_the_work_and_do_no_trial_twice(tmp_path, undisturbed):
    def worker(name):
        def log(what, done, total):
            with (tmp_path / name).open("a") as file:
                file.write(f"{what}\n")

        return lambda: ran(tmp_path / "grid", progress=log)

    first = os.fork()
    if first == 0:
        code = 1
        try:
            worker("a")()
            code = 0
        finally:
            os._exit(code)
    assert in_a_process(worker("b")) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    assert (tmp_path / "grid" / "record.json").read_bytes() == undisturbed
    # Each end of a trial is told in both processes, each step in one only.
    lines = {name: (tmp_path / name).read_text().splitlines() for name in ("a", "b")}
    lines = {name: [what for what in told if what != "reading digits"] for name, told in lines.items()}
    trained = {name: {what for what in told if told.count(what) > 2} for name, told in lines.items()}
    assert trained["a"] | trained["b"] == set(lines["a"])
    assert not trained["a"] & trained["b"]
    assert len(set(lines["a"])) == 24


def test_the_same_command_again_trains_nothing(tmp_path, undisturbed):
    told = []
    assert ran(tmp_path) == undisturbed
    assert ran(tmp_path, progress=lambda what, done, total: told.append((done, total))) == undisturbed
    (steps,) = {total for _, total in told} - {120 + 60 + 239, 419}
    trained = [done for done, total in told if total == steps]
    assert len(trained) == 24  # each trial's end alone
    assert trained == sorted(trained)

"""The order of a plan's jobs, and the learning rates that tuning chooses."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from truenorm.errors import Diverged
from truenorm.lab.jobs.job import Condition
from truenorm.lab.jobs.plan import Plan
from truenorm.lab.jobs.store import Store
from truenorm.lab.jobs.trial import Trial
from truenorm.record import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Trial):
    name: str

    def place(self):
        return (self.name,)

    def values(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed, "lr": self.lr}


def condition(name, lrs=(0.1,), score=lambda seed, lr: lr):
    """Of jobs of two steps whose score is known; None: it diverges."""

    def measure(trial, running, on_step):
        if (value := score(trial.seed, trial.lr)) is None:
            raise Diverged("the loss is nan")
        yield Measurement(trial.id, name, None, "score", value)

    return Condition(trial=partial(Named, name=name), lrs=lrs, context="0", steps=2, measure=measure, machine={})


def plan(*blocks, **options):
    return Plan(blocks=blocks, **{"seeds": 2, "tuning_seeds": (0,)} | options)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "trials")


def tuned(found, store):
    for job in found.tuning:
        store.finish(job.name, job.do(store, lambda: None))
    return [(str(job), job.trial.lr) for job in found.final(store)]


def test_the_jobs_of_a_block_come_seed_by_seed(store):
    found = plan([condition("a"), condition("b")], [condition("c")])
    assert found.tuning == []
    assert [str(job) for job in found.final(store)] == [
        *("a, seed 0", "b, seed 0", "a, seed 1", "b, seed 1"),
        *("c, seed 0", "c, seed 1"),
    ]
    assert (found.total(store), found.steps) == (6, 12)


def test_the_rate_is_the_best_and_a_condition_without_one_is_left_out(store):
    rates = (0.1, 0.2, 0.4)
    best = condition("a", rates, lambda seed, lr: -abs(lr - 0.2))
    found = plan([best, condition("b", rates, lambda seed, lr: None), condition("c", (None,))])
    assert (found.total(store), found.steps) == (12, 24)  # as if each had a rate
    assert tuned(found, store) == [("a, seed 0", 0.2), ("c, seed 0", None), ("a, seed 1", 0.2), ("c, seed 1", None)]
    assert found.total(store) == 10


def test_the_worst_tuning_seed_decides_and_one_that_diverged_excludes_its_rate(store):
    scores = {0.1: (0.5, 0.6), 0.2: (0.9, 0.4), 0.4: (1.0, None)}
    found = plan([condition("a", tuple(scores), lambda seed, lr: scores[lr][seed])], seeds=1, tuning_seeds=(0, 1))
    assert tuned(found, store) == [("a, seed 0", 0.1)]


def test_of_equal_rates_the_first_is_taken(store):
    assert tuned(plan([condition("a", (0.4, 0.1), lambda seed, lr: 1.0)], seeds=1), store) == [("a, seed 0", 0.4)]


def test_a_job_is_known_by_all_that_its_outcome_depends_on():
    job = partial(condition("a").job, 0, 0.1)
    names = {
        job(False).name,
        job(True).name,
        condition("b").job(0, 0.1, False).name,
        condition("a").job(1, 0.1, False).name,
    }
    assert len(names) == 4 and condition("a").job(0, 0.1, False).name in names

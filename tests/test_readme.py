"""What the README says that its first Python example prints, it prints."""

import re
import warnings
from pathlib import Path

import pytest

import truenorm as tn
from truenorm.doctor.diagnosis import Diagnosis
from truenorm.doctor.finding import Finding
from truenorm.doctor.outcome import Improvement, Looked, Outcome
from truenorm.doctor.remedy import RepairStatistics, Step
from truenorm.doctor.repair import Repair
from truenorm.metrics.intervals import Interval

# The run that is shown, as values.
DIAGNOSIS = Diagnosis(
    outcome=Outcome(
        kind="repairable",
        healthy=False,
        off=2,
        layers=2,
        improved=(
            Improvement(metric="accuracy", before=0.7655, after=0.9069),
            Improvement(metric="log likelihood", before=-3.181, after=-0.3238),
        ),
    ),
    layers=(),
    findings=(
        Finding(
            cause="initial values",
            evidence={"momentum": 0.001, "batches": 190, "left": 0.8269},
            explained=0.98,
        ),
    ),
    gains={},
    scores={},
    best="joint",
    ruled_out=(),
    steps=(Step(remedy=RepairStatistics()),),
    looked=Looked(limit=2000, kind="classes", measured=291, scored=290, batch_size=32),
)
STATISTICS = tn.Statistics({})
REPAIR = Repair(
    chosen="joint",
    previous=STATISTICS,
    statistics=STATISTICS,
    scores={
        "as it is": {"accuracy": 0.7332, "log likelihood": -3.607},
        "joint": {"accuracy": 0.9225, "log likelihood": -0.2551},
    },
    gains={"joint": {"accuracy": Interval(0.19, 0.036, 581), "log likelihood": Interval(3.4, 0.58, 581)}},
    measured=1216,
    batch_size=32,
    scored=581,
    held_out="given",
)


def certain(diagnosis, repair):
    """What is the same on every processor."""
    outcome, (first, *others) = diagnosis.outcome, diagnosis.findings
    return (
        (diagnosis.healthy, diagnosis.best, diagnosis.ruled_out, diagnosis.steps, diagnosis.looked, others),
        (outcome.kind, outcome.off, outcome.layers, [part.metric for part in outcome.improved]),
        (first.cause, first.level, first.evidence["batches"]),
        (repair.chosen, list(repair.gains["joint"])),
    )


def measured(diagnosis, repair):
    """What is not: the network is trained anew, and other processors round otherwise."""
    first, gains = diagnosis.findings[0], repair.gains["joint"].values()
    return [
        *(value for part in diagnosis.outcome.improved for value in (part.before, part.after)),
        *(first.evidence["momentum"], first.evidence["left"], first.explained),
        *(score for name in ("as it is", "joint") for score in repair.scores[name].values()),
        *(value for gain in gains for value in (gain.mean, gain.half_width)),
    ]


def test_the_first_example_in_python_prints_what_is_shown_below_it(monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code, _, shown = re.search(r"```python\n(.*?)```\n(.*?)```\n(.*?)```", readme, re.S).groups()
    assert shown == f"{DIAGNOSIS}\n{REPAIR.sentence}\n"

    diagnosed, diagnose, names = [], tn.diagnose, {}
    monkeypatch.setattr(tn, "diagnose", lambda *given: diagnosed.append(diagnose(*given)) or diagnosed[-1])
    with warnings.catch_warnings(action="error"):
        exec(code, names)
    (diagnosis,), repair = diagnosed, names["done"]
    assert capsys.readouterr().out == f"{diagnosis}\n{repair.sentence}\n"
    assert certain(diagnosis, repair) == certain(DIAGNOSIS, REPAIR)
    assert measured(diagnosis, repair) == pytest.approx(measured(DIAGNOSIS, REPAIR), rel=0.25, abs=0.03)

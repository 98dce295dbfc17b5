"""The sentence that a page begins with."""

from dataclasses import replace

from inline_snapshot import snapshot
from unit.lab.report.synthetic import study

from truenorm.lab.report.headline import headline, shift_sentence
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import only_summary


def said(**options):
    return headline(only_summary(read_study(study(**{"seeds": 5, **options}))))


def test_nothing_is_shown():
    assert said() == snapshot(
        "No difference in accuracy is shown between torch's default statistics and any of the 8 ways compared."
    )


def test_one_way_alone():
    assert said(arms=("static-0.1", "dmbn")) == snapshot(
        "No difference in accuracy is shown between torch's default statistics and the one way compared."
    )


def test_some_are_better():
    assert said(gains={"adaptive": 0.05}) == snapshot(
        "adaptive does better than torch's default on the same weights, by 5.0 points."
    )
    assert said(gains={"adaptive": 0.05, "recalibrated": 0.04, "dmbn": -0.03}) == snapshot(
        "adaptive and recalibrated do better than torch's default on the same weights, by 4.0 to 5.0 points; dmbn does worse."
    )


def test_many_are_better():
    arms = ("dmbn", "adaptive", "recalibrated", "sequential")
    assert said(gains=dict.fromkeys(arms, 0.05)) == snapshot(
        "sequential, adaptive and 2 others do better than torch's default on the same weights, by 5.0 to 5.1 points."
    )


def test_some_are_worse():
    assert said(gains={"update_bn": -0.05}) == snapshot(
        "Nothing is shown to do better than torch's default; update_bn does worse."
    )


def test_a_network_of_its_own_is_not_in_it():
    assert "gn" not in said(gains={"gn": 0.2})


def test_one_seed():
    assert said(seeds=1) == snapshot("One seed says nothing about noise; more are needed before anything is compared.")


def test_the_sweep_alone():
    assert said(arms=("static-0.1", "static-0.5")) == snapshot("The sweep of momenta, and nothing to compare it with.")


def nearer(record):
    """The same with a tenth of the shift under dmbn."""
    rows = [
        replace(row, value=row.value / 10) if (row.arm, row.metric) == ("dmbn", "shift.joint") else row
        for row in record.rows
    ]
    return replace(record, rows=tuple(rows))


def test_the_shift_is_told_where_it_becomes_much_smaller():
    record = study(seeds=2)
    assert shift_sentence(only_summary(read_study(record))) == ()
    record = nearer(record)
    assert shift_sentence(only_summary(read_study(record))) == snapshot(
        (
            "A momentum for each layer (dmbn) brings the statistics nearer to those of the data, against which it is chosen: from 0.041 to 0.004 σ off.",
        )
    )


def test_the_shift_of_one_seed_or_below_the_noise_floor_is_not_told():
    assert shift_sentence(only_summary(read_study(nearer(study(seeds=1))))) == ()
    record = nearer(study(seeds=2))
    rows = [replace(row, error=0.5) if row.metric == "shift.joint" else row for row in record.rows]
    assert shift_sentence(only_summary(read_study(replace(record, rows=tuple(rows))))) == ()
    rows = [replace(row, error=None) if row.metric == "shift.joint" else row for row in record.rows]
    assert shift_sentence(only_summary(read_study(replace(record, rows=tuple(rows))))) != ()

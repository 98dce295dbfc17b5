"""A damaged header is refused in a sentence, whatever is wrong with it."""

from contextlib import suppress
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic import study

from truenorm.errors import InvalidRecord
from truenorm.lab.report import study_page
from truenorm.lab.report.header import StudyImages, StudyTrial, read_images
from truenorm.lab.report.headline import grid_headline
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries
from truenorm.lab.report.tables import arms_table, study_conclusion, study_tables
from truenorm.record import Measurement, typed

IMAGES = {"train": 9, "validation": 0, "test": 9, "imbalance": 1.0, "balanced": True}


def refused(check, *arguments):
    with pytest.raises(InvalidRecord) as caught:
        check(*arguments)
    return str(caught.value).removeprefix("the record's header is damaged: ")


def configured(**values):
    record = study(seeds=1, num_layers=1)
    return replace(record, configuration={**record.configuration, **values})


def test_trials():
    assert [
        refused(typed, {"seed": 0, **damage}, StudyTrial, "trial 't'")
        for damage in (
            {"seed": "a"},
            {"seed": None},
            {"seed": True},
            {"seed": 1.5},
            {"lr": "x"},
            {"batch_size": "32"},
            {"data": 3},
            {"network": ["mlp"]},
            {"schedule": {}},
        )
    ] == snapshot(
        [
            "seed of trial 't' is 'a'",
            "seed of trial 't' is None",
            "seed of trial 't' is True",
            "seed of trial 't' is 1.5",
            "lr of trial 't' is 'x'",
            "batch_size of trial 't' is '32'",
            "data of trial 't' is 3",
            "network of trial 't' is ['mlp']",
            "schedule of trial 't' is {}",
        ]
    )
    assert typed({"seed": 0, "lr": 1, "network": "mlp"}, StudyTrial, "trial 't'").lr == 1.0


def test_images():
    assert [
        refused(read_images, {"images": images, "reference": "training"}, "digits")
        for images in (
            3,
            {},
            {"digits": 3},
            {"digits": {key: value for key, value in IMAGES.items() if key != "test"}},
            {"digits": {**IMAGES, "test": 0}},
            {"digits": {**IMAGES, "test": "9"}},
            {"digits": {**IMAGES, "train": -1}},
            {"digits": {**IMAGES, "validation": None}},
            {"digits": {**IMAGES, "imbalance": "1"}},
            {"digits": {**IMAGES, "balanced": 1}},
        )
    ] == snapshot(
        [
            "images is 3",
            "the record's configuration does not say what the images of 'digits' were",
            "images of 'digits' is 3",
            "test of images of 'digits' is None",
            "test of images of 'digits' is 0",
            "test of images of 'digits' is '9'",
            "train of images of 'digits' is -1",
            "validation of images of 'digits' is None",
            "imbalance of images of 'digits' is '1'",
            "balanced of images of 'digits' is 1",
        ]
    )
    assert read_images({"images": {"digits": IMAGES}, "reference": "training"}, "digits") == StudyImages(**IMAGES)


@pytest.mark.parametrize("axis", ["data", "networks", "batch_sizes", "schedules", "lrs"])
def test_axes_that_are_no_lists(axis):
    assert refused(read_study, configured(**{axis: 5})) == f"{axis} is 5"


def test_a_record_of_before():
    record = configured()
    del record.configuration["images"]
    assert refused(summaries, read_study(record)) == snapshot(
        "the record's configuration lacks images; it is of an older truenorm, or of another command"
    )


def test_an_arm_of_the_sweep_without_a_momentum_is_in_no_chart_of_momenta():
    record = study(seeds=1, num_layers=1)
    odd = [
        Measurement(row.trial, arm, row.layer, row.metric, row.value)
        for row in record.rows
        if row.arm == "static-0.1"
        for arm in ("static-abc", "static-nan", "static-1e999", "static-0", "static--1")
    ]
    record = replace(record, rows=(*record.rows, *odd))
    (summary,) = summaries(read_study(record))
    assert len(summary.swept) == 16 and list(summary.swept) == sorted(summary.swept)
    assert "static-abc" in study_page(summaries(read_study(record)))


def test_whatever_is_damaged_it_is_said_in_a_sentence():
    """Every value of the header that a report reads, as something else: a report or a refusal, never a traceback."""

    def read(record):
        found = summaries(read_study(record))
        tables = [arms_table(summary, alone=False) for summary in found]
        return (
            study_tables(summaries(read_study(record))),
            study_conclusion(summaries(read_study(record))),
            grid_headline(found),
            tables,
        )

    record = study(seeds=2, num_layers=1, batch_sizes=(4, 8), lrs=(0.1, 0.2), arms=("static-0.1", "dmbn", "gn"))
    name, trial = next(iter(record.trials.items()))
    images = record.configuration["images"]["digits"]
    for odd in (None, 3, "a", [], {}, [1], {"a": 1}, True):
        damaged = [replace(record, configuration={**record.configuration, key: odd}) for key in record.configuration]
        damaged += [replace(record, trials={**record.trials, name: {**trial, key: odd}}) for key in trial]
        for key in images:
            whole = {**record.configuration, "images": {"digits": {**images, key: odd}}}
            damaged.append(replace(record, configuration=whole))
        for one in damaged:
            with suppress(InvalidRecord):
                read(one)

"""Which trials stand side by side."""

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic import study

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import BASELINE, StudySummary, only_summary, summaries
from truenorm.record import Measurement, Record


def labels(**axes):
    return [setting.label for setting in read_study(study(seeds=1, **axes)).settings]


def test_a_plain_study_has_one_setting_without_a_label():
    (setting,) = read_study(study()).settings
    assert (setting.label, setting.values["data"], len(setting.trials)) == ("", "digits", 9)


def test_a_label_names_the_axes_that_vary():
    assert labels(batch_sizes=(4, 64)) == snapshot(["batch 4", "batch 64"])
    assert labels(networks=("cnn", "mlp"), schedules=("cosine", "constant")) == snapshot(
        ["cnn, cosine", "cnn, constant", "mlp, cosine", "mlp, constant"]
    )
    assert labels(lrs=(0.1, 0.02), data=("mnist", "digits")) == snapshot(
        ["mnist, rate 0.1", "mnist, rate 0.02", "digits, rate 0.1", "digits, rate 0.02"]
    )


def test_settings_stand_in_the_order_of_the_grid_however_the_trials_came():
    record = study(batch_sizes=(64, 4, 16), seeds=1)
    shuffled = Record(
        command="", rows=record.rows, configuration=record.configuration, trials=dict(reversed(record.trials.items()))
    )
    assert [s.label for s in read_study(shuffled).settings] == ["batch 64", "batch 4", "batch 16"]


def test_a_rate_that_was_chosen_on_validation_images_is_no_axis():
    """Each network takes its own: they stay in one setting."""
    record = study(seeds=1)
    record.trials["digits-mlp-32-cosine-0.05-gn-0"]["lr"] = 0.2
    assert len(read_study(record).settings) == 1


def test_trials_that_tune_are_no_results():
    record = study(seeds=1)
    tuning = {"norm": "bn", "seed": 0, "lr": 9.0, "tuning": True, "batch_size": 7}
    with_tuning = Record(
        command="",
        rows=(*record.rows, Measurement("t", "bn", None, "validation_accuracy", 0.5)),
        configuration=record.configuration,
        trials={**record.trials, "t": tuning},
    )
    assert [s.rows for s in read_study(with_tuning).settings] == [record.rows]


def test_every_row_is_in_one_setting():
    record = study(batch_sizes=(4, 64), networks=("mlp", "cnn"))
    found = read_study(record).settings
    assert len(found) == 4
    assert sum(len(s.rows) for s in found) == len(record.rows)
    assert all(row.trial in s.trials for s in found for row in s.rows)


def test_settings_differ_in_their_numbers():
    first, second = summaries(read_study(study(batch_sizes=(4, 64))))
    assert first.interval(BASELINE, "accuracy") != second.interval(BASELINE, "accuracy")
    assert first.seeds == second.seeds == (0, 1, 2)


def test_one_of_several_settings_must_be_named():
    record = study(batch_sizes=(4, 64), seeds=1)
    with pytest.raises(InvalidInput) as caught:
        only_summary(read_study(record))
    assert str(caught.value) == snapshot("the record holds 2 settings ('batch 4', 'batch 64', …); say which")
    study_record = read_study(record)
    assert StudySummary(study_record, study_record.settings[1]).setting.label == "batch 64"


def test_a_setting_whose_trials_diverged_has_no_summary_but_is_told():
    record = study(batch_sizes=(2, 64), diverged=(2,), seeds=1)
    assert [s.setting.label for s in summaries(read_study(record))] == ["batch 64"]
    assert read_study(record).settings[0].diverged[0] == "bn, seed 0: the loss became nan in epoch 2"


def test_a_study_of_which_everything_diverged():
    with pytest.raises(InvalidRecord) as caught:
        summaries(read_study(study(batch_sizes=(2,), diverged=(2,), seeds=1)))
    assert str(caught.value) == snapshot("the study has no result to show; bn, seed 0: the loss became nan in epoch 2")


def test_a_damaged_place_on_an_axis():
    record = study(seeds=1)
    record.trials["digits-mlp-32-cosine-0.05-gn-0"]["network"] = ["mlp"]
    with pytest.raises(InvalidRecord) as caught:
        read_study(record)
    assert str(caught.value) == snapshot(
        "the record's header is damaged: network of trial 'digits-mlp-32-cosine-0.05-gn-0' is ['mlp']"
    )

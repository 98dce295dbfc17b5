import io
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from rich.console import Console
from unit.lab.report.synthetic import study

from truenorm.errors import InvalidRecord
from truenorm.lab.report.study import study_page
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries
from truenorm.lab.report.tables import arms_table, study_tables
from truenorm.record import Measurement, Record

BASE = [0.90, 0.91]


def layer_rows(arm="static-0.1", norm="bn", momentum=None):
    for seed in (0, 1):
        for number, layer in enumerate(("bn1", "bn2")):
            for reference in ("joint", "sequential", "arriving"):
                shift = 0.1 * (number + 1) + 0.02 * seed
                yield Measurement(f"{norm}{seed}", arm, layer, f"shift.{reference}", shift, 0.01, 100)
                yield Measurement(f"{norm}{seed}", arm, layer, f"esm_mean.{reference}", 2 * shift)
                yield Measurement(f"{norm}{seed}", arm, layer, f"esm_var.{reference}", 3 * shift)
            if momentum is not None:
                yield Measurement(f"{norm}{seed}", arm, layer, "momentum", momentum[number][seed])


def printed(tables):
    console = Console(file=io.StringIO(), width=150)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def titles(tables):
    return [table.title for table in tables]


def test_the_tables_of_a_small_study(record):
    rows = [*layer_rows(), *layer_rows("dmbn", momentum=((0.1, 0.1), (0.5, 0.01))), *layer_rows("bn-bfn", "bn-bfn")]
    tables = study_tables(
        summaries(
            read_study(
                record(
                    {"static-0.1": BASE, "dmbn": [0.93, 0.91], "bn-bfn": [0.89, 0.92], "gn": [0.8, 0.85]}, extra=rows
                )
            )
        )
    )
    assert printed(tables) == snapshot("""\
same weights, other statistics

 arm             accuracy %    − static-0.1   F-score %   sensitivity %   specificity %             NLL     − static-0.1
 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 static-0.1    90.50 ± 6.35                                                               0.190 ± 0.127
 dmbn         92.00 ± 12.71   +1.50 ± 19.06                                               0.160 ± 0.254   -0.030 ± 0.381

digits: 1,200 images to train on, 240 to choose by, 1,000 to test; 2 seeds; mean ± 95 % interval over seeds.
− static-0.1: paired by seed, on the same weights.
The test set is balanced: sensitivity is accuracy, and specificity follows from it.
other networks, statistics as torch keeps them

 arm             accuracy %    − static-0.1   F-score %   sensitivity %   specificity %             NLL     − static-0.1
 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 static-0.1    90.50 ± 6.35                                                               0.190 ± 0.127
 bn-bfn       90.50 ± 19.06   +0.00 ± 12.71                                               0.190 ± 0.381   +0.000 ± 0.254
 gn           82.50 ± 31.77   -8.00 ± 25.41                                               0.350 ± 0.635   +0.160 ± 0.508

These change the weights: same budget, same rates tried, differences paired by seed only.
estimation shift

 arm                  joint σ      sequential σ        arriving σ   ESM mean   ESM variance
 ──────────────────────────────────────────────────────────────────────────────────────────
 static-0.1   0.1600 ± 0.1271   0.1600 ± 0.1271   0.1600 ± 0.1271       0.32           0.48
 dmbn         0.1600 ± 0.1271   0.1600 ± 0.1271   0.1600 ± 0.1271       0.32           0.48
 bn-bfn       0.1600 ± 0.1271   0.1600 ± 0.1271   0.1600 ± 0.1271       0.32           0.48

joint, sequential: off the population statistics in units of σ; arriving: off what reaches
the layer at inference, inherited error included. Mean over layers.
Scored against training images. Noise floor: joint 0.01, sequential 0.01, arriving 0.01.
ESM: plain L2 norms over channels against joint, means and variances.
momentum each layer took

 layer              dmbn
 ───────────────────────
 bn1              0.1 ×2
 bn2     0.01 ×1, 0.5 ×1

torch's momentum, the
weight of the new batch
(Keras's is 1 − ours); ×:
in so many seeds.\
""")


def test_what_was_not_asked_for_has_no_table(record):
    assert titles(study_tables(summaries(read_study(record({"static-0.1": BASE}, extra=layer_rows()))))) == snapshot(
        ["same weights, other statistics", "estimation shift"]
    )


@pytest.mark.parametrize(("reference", "leaks"), [("training", False), ("test", True)])
def test_leakage_is_labelled(record, reference, leaks):
    (table,) = (
        table
        for table in study_tables(
            summaries(read_study(record({"static-0.1": BASE}, extra=layer_rows(), reference=reference)))
        )
        if table.title == "estimation shift"
    )
    assert any("LEAKAGE" in note for note in table.notes) is leaks
    assert any("against training images" in note for note in table.notes) is not leaks


def test_notes_of_the_first_table(record):
    def notes(**options):
        return study_tables(summaries(read_study(record({"static-0.1": BASE[:1]}, **options))))[0].notes

    assert notes(balanced=False, complete=False, notes=("imbalance 10",)) == snapshot(
        (
            "digits: 1,200 images to train on, 240 to choose by, 1,000 to test; 1 seed; mean ± 95 % interval over "
            "seeds.",
            "− static-0.1: paired by seed, on the same weights.",
            "The study was not finished: fewer trials than asked for.",
            "imbalance 10",
        )
    )
    assert notes(num_test=10_000) == snapshot(
        (
            "digits: 1,200 images to train on, 240 to choose by, 10,000 to test; 1 seed; mean ± 95 % interval over "
            "seeds.",
            "− static-0.1: paired by seed, on the same weights.",
            "The test set is balanced: sensitivity is accuracy, and specificity follows from it.",
        )
    )


def test_the_only_setting_with_results_names_what_diverged_in_the_others():
    record = study(batch_sizes=(2, 8, 64), diverged=(2, 64), seeds=1, arms=("static-0.1", "dmbn"))
    assert study_tables(summaries(read_study(record)))[0].notes[2:] == snapshot(
        (
            "1 of 3 settings has results: batch 8.",
            "Diverged: batch 2: bn, seed 0: the loss became nan in epoch 2",
            "Diverged: batch 64: bn, seed 0: the loss became nan in epoch 2",
        )
    )
    (summary,) = summaries(read_study(record))
    assert arms_table(summary, alone=True).notes == study_tables(summaries(read_study(record)))[0].notes
    page = study_page(summaries(read_study(record)))
    assert "Diverged: batch 2: bn, seed 0" in page and "1 of 3 settings has results" in page


def test_a_grid_that_was_not_finished_counts_what_was_asked_for():
    record = study(batch_sizes=(8,), seeds=1, arms=("static-0.1",))
    configuration = {**record.configuration, "batch_sizes": [2, 8]}
    assert study_tables(summaries(read_study(replace(record, configuration=configuration, complete=False))))[0].notes[
        2:
    ] == snapshot(("The study was not finished: fewer trials than asked for.", "1 of 2 settings has results."))


def test_rates_that_were_chosen_are_told():
    def told(record):
        return [note for note in study_tables(summaries(read_study(record)))[0].notes if "rate" in note]

    record = study(rates={"bn": 0.06, "gn": 0.02}, arms=("static-0.1", "gn"))
    assert told(record) == snapshot(["Learning rates chosen on validation images: bn 0.06, gn 0.02."])
    record.trials["digits-mlp-32-cosine-0.05-bn-1"]["lr"] = 0.18
    assert told(record) == snapshot(["Learning rates chosen on validation images: bn 0.06 and 0.18, gn 0.02."])
    assert told(study()) == []


def test_networks_alone_have_no_shift_of_group_norm(record):
    tables = study_tables(summaries(read_study(record({"static-0.1": BASE, "gn": BASE}, extra=layer_rows()))))
    assert [row[0] for row in tables[1].rows] == ["static-0.1", "gn"]
    assert [row[0] for row in tables[2].rows] == ["static-0.1"]


def test_every_row_has_a_cell_for_each_column(record):
    rows = [*layer_rows(), *layer_rows("adaptive", momentum=((0.1, 0.2), (0.1, 0.1)))]
    for table in study_tables(
        summaries(read_study(record({"static-0.1": BASE, "adaptive": [None, 0.9], "gn": [0.8, None]}, extra=rows)))
    ):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_record_of_something_else():
    with pytest.raises(InvalidRecord, match="is it one of truenorm study"):
        study_tables(summaries(read_study(Record(command="truenorm diagnose"))))

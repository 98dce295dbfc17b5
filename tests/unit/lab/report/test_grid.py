"""Several settings: the overview, and what is said of them together."""

import io
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from rich.console import Console
from unit.lab.report.synthetic import study

from truenorm.lab.report.grid import CONTRASTS, Contrast, concentration, grid_conclusion, overviews
from truenorm.lab.report.headline import grid_headline
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import BASELINE, beyond_noise, summaries
from truenorm.lab.report.tables import study_conclusion, study_tables
from truenorm.metrics.intervals import Interval, mean_interval

BFN = next(contrast for contrast in CONTRASTS if contrast.name == "bn-bfn − dmbn")
GAINS = {"dmbn": 0.03, "adaptive": 0.001, "bn-bfn": -0.02}


def grid(**options):
    return study(**{"batch_sizes": (2, 8, 64), "seeds": 4, "gains": GAINS, **options})


def printed(table):
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_the_overview():
    assert "\n\n".join(map(printed, overviews(summaries(read_study(grid()))))) == snapshot("""\
3 settings: same weights, other statistics

 setting                seeds   static-0.1 %   dmbn − static-0.1   dmbn − recalibrated   pooled-0.1 − static-0.1   adaptive − recalibrated
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 batch 2                    4   92.62 ± 0.47      +3.03 ± 0.44 *        +2.95 ± 0.44 *              +0.03 ± 0.52              -0.03 ± 0.62
 batch 8                    4   93.45 ± 0.40      +3.16 ± 0.44 *        +3.11 ± 0.45 *              -0.03 ± 0.44              +0.17 ± 0.51
 batch 64                   4   89.53 ± 0.60      +2.96 ± 0.67 *        +3.34 ± 0.44 *              -0.21 ± 0.58              +0.18 ± 0.44
 mean of all settings       4   91.87 ± 0.26      +3.05 ± 0.26 *        +3.13 ± 0.25 *              -0.07 ± 0.20              +0.10 ± 0.19

Points of accuracy, mean ± 95 % interval over seeds; differences are paired by seed. *: beyond noise, Holm over the settings of that
contrast.
With 4 seeds a difference must be 4.9 standard errors for one of 3 settings to be beyond noise; more seeds show more.
Means: over settings, seed by seed, of the seeds that all have; a setting without an arm is left out there. That of all settings is one
test for each contrast, not one of Holm's family: * where its interval excludes 0. Those of some settings are not tested.
dmbn − static-0.1: Does a momentum chosen for each layer help? The weights are the same. Half of the mean over settings comes from 2 of 3
settings.
dmbn − recalibrated: Does that momentum give more than the pass over the data by which it is chosen? The weights are the same. Half of the
mean over settings comes from 2 of 3 settings.
pooled-0.1 − static-0.1: Do the running statistics of truenorm's layers help, at the same momentum? The weights are the same.
adaptive − recalibrated: Do averages of the run do what a pass over the data does? The weights are the same.

3 settings: other networks, paired by seed

 setting                seeds   static-0.1 %   bn-bfn − static-0.1    bn-bfn − dmbn
 ──────────────────────────────────────────────────────────────────────────────────
 batch 2                    4   92.62 ± 0.47        -1.87 ± 0.44 *   -4.90 ± 0.44 *
 batch 8                    4   93.45 ± 0.40        -2.17 ± 0.79 *   -5.33 ± 0.92 *
 batch 64                   4   89.53 ± 0.60        -1.91 ± 0.91 *   -4.87 ± 1.38 *
 mean of all settings       4   91.87 ± 0.26        -1.98 ± 0.56 *   -5.04 ± 0.69 *

bn-bfn − static-0.1: Is it better to make some of the norms batch-free? That is
another network; both have torch's statistics. Half of the mean over settings comes
from 2 of 3 settings.
bn-bfn − dmbn: The same against a momentum for each layer. Not equal treatment: dmbn
needs a pass over the data, and bn-bfn has torch's statistics. Half of the mean over
settings comes from 2 of 3 settings.\
""")


def test_a_grid_has_a_table_of_the_same_weights_one_of_other_networks_and_a_sentence():
    record = grid()
    assert [table.title for table in study_tables(summaries(read_study(record)))] == snapshot(
        ["3 settings: same weights, other statistics", "3 settings: other networks, paired by seed"]
    )
    assert [table.title for table in study_tables(summaries(read_study(grid(arms=("static-0.1", "dmbn")))))] == [
        "3 settings"
    ]
    assert (
        study_conclusion(summaries(read_study(record)))
        == grid_conclusion(summaries(read_study(record)))
        == snapshot(
            "Points of accuracy in 3 settings, paired by seed, ± 95 %, Holm over the settings of each contrast: dmbn − static-0.1 is beyond noise in 3 of 3 (3 better), from +2.96 ± 0.67 to +3.16 ± 0.44, mean over settings +3.05 ± 0.26 (half of it from 2 of 3); dmbn − recalibrated is beyond noise in 3 of 3 (3 better), from +2.95 ± 0.44 to +3.34 ± 0.44, mean over settings +3.13 ± 0.25 (half of it from 2 of 3); pooled-0.1 − static-0.1 is beyond noise in 0 of 3, from -0.21 ± 0.58 to +0.03 ± 0.52, mean over settings -0.07 ± 0.20; adaptive − recalibrated is beyond noise in 0 of 3, from -0.03 ± 0.62 to +0.18 ± 0.44, mean over settings +0.10 ± 0.19; bn-bfn − static-0.1 is beyond noise in 3 of 3 (3 worse), from -2.17 ± 0.79 to -1.87 ± 0.44, mean over settings -1.98 ± 0.56 (half of it from 2 of 3); bn-bfn − dmbn is beyond noise in 3 of 3 (3 worse), from -5.33 ± 0.92 to -4.87 ± 1.38, mean over settings -5.04 ± 0.69 (half of it from 2 of 3)."
        )
    )


def test_contrasts_are_paired_by_seed_within_a_setting():
    found = summaries(read_study(grid()))
    differences = BFN.differences(found)
    assert list(differences) == ["batch 2", "batch 8", "batch 64"]
    a, b = (found[1].seeds_of(arm, "accuracy") for arm in ("bn-bfn", "dmbn"))
    assert abs(differences["batch 8"].mean - sum(100 * (a[seed] - b[seed]) for seed in a) / 4) < 1e-9


def test_the_mean_of_all_settings_is_taken_seed_by_seed():
    found = summaries(read_study(grid()))
    by_seed = [
        [100 * (one.seeds_of("dmbn", "accuracy")[seed] - one.seeds_of(BASELINE, "accuracy")[seed]) for one in found]
        for seed in range(4)
    ]
    expected = mean_interval([sum(differences) / 3 for differences in by_seed])
    mean = CONTRASTS[0].mean(found)
    assert mean.mean == pytest.approx(expected.mean) and mean.half_width == pytest.approx(expected.half_width)
    assert mean.n == 4


def test_the_mean_leaves_out_settings_without_the_arm_and_seeds_that_one_lacks():
    record = grid()
    lost = {name for name, trial in record.trials.items() if (trial["seed"], trial["batch_size"]) == (0, 8)}
    rows = [
        row
        for row in record.rows
        if row.trial not in lost and not (row.arm == "bn-bfn" and record.trials[row.trial]["batch_size"] == 64)
    ]
    found = summaries(read_study(replace(record, rows=tuple(rows))))
    assert {contrast.mean(found).n for contrast in CONTRASTS} == {3}
    a, b = (
        [100 * one.seeds_of(arm, "accuracy")[seed] for one in found[:2] for seed in (1, 2, 3)]
        for arm in ("bn-bfn", "dmbn")
    )
    assert BFN.mean(found).mean == pytest.approx((sum(a) - sum(b)) / 6)
    assert overviews(found)[0].rows[-1][1] == "3"


def test_the_mean_of_one_image_in_each_seed_is_no_certainty():
    """Every setting and seed differs by the same: the spread is taken to be no less than a step of the mean."""
    record = grid(seeds=3)
    base = {row.trial: row.value for row in record.rows if (row.arm, row.metric) == (BASELINE, "accuracy")}
    rows = [
        replace(row, value=base[row.trial] + 1 / 359) if (row.arm, row.metric) == ("dmbn", "accuracy") else row
        for row in record.rows
    ]
    assert CONTRASTS[0].mean(summaries(read_study(replace(record, rows=tuple(rows))))).half_width > 0


def test_few_settings_may_give_half_of_a_mean():
    """Taken from the largest difference in the direction of the mean; those against it count in the sum."""

    def named(*means):
        return concentration({str(place): Interval(mean, None, 1) for place, mean in enumerate(means)})

    assert named(5.0, 0.1, 5.3, -0.4) == ("2",)
    assert named(1.0, 1.0, 1.0, 1.0) == ("0", "1")
    assert named(-3.0, 1.0, -2.0) == ("0",)
    assert named(1.0, -1.0) == ()


def test_half_of_a_mean_is_said_only_of_means_beyond_noise():
    found = summaries(read_study(grid(gains={"dmbn": 0.03})))
    notes = {name: note for note in overviews(found)[0].notes for name, _, _ in [note.partition(":")]}
    assert "Half of the mean over settings comes from 2 of 3 settings." in notes["dmbn − static-0.1"]
    assert not Contrast("adaptive", "recalibrated", "").mean(found).excludes_zero
    assert "Half" not in notes["adaptive − recalibrated"]


def test_what_it_takes_with_few_seeds_and_many_settings():
    def note(seeds, many):
        record = study(batch_sizes=tuple(range(2, 2 + many)), seeds=seeds, num_layers=1)
        return [one for one in overviews(summaries(read_study(record)))[0].notes if "standard errors" in one]

    assert note(3, 36) == snapshot(
        [
            "With 3 seeds a difference must be 27 standard errors for one of 36 settings to be beyond noise; more seeds show more."
        ]
    )
    assert note(5, 2) == snapshot(
        [
            "With 5 seeds a difference must be 3.5 standard errors for one of 2 settings to be beyond noise; more seeds show more."
        ]
    )
    assert note(1, 2) == []


def test_holm_is_over_the_settings_of_a_contrast():
    """The same differences, among ever more settings: what was beyond noise is no longer."""
    record = study(batch_sizes=tuple(range(2, 42)), seeds=3, gains={"dmbn": 0.01}, num_layers=1)
    found = summaries(read_study(record))
    alone = sum(difference.p < 0.05 for difference in CONTRASTS[0].differences(found).values())
    assert len(beyond_noise(CONTRASTS[0].differences(found))) < alone


def test_arms_that_were_not_asked_for():
    record = grid(arms=("static-0.1", "gn"))
    assert study_conclusion(summaries(read_study(record))) == snapshot(
        "3 settings; none of the arms that are contrasted was asked for."
    )
    assert study_tables(summaries(read_study(record)))[0].columns == snapshot(("setting", "seeds", "static-0.1 %"))


def test_one_seed_says_nothing():
    assert study_conclusion(summaries(read_study(grid(seeds=1)))) == snapshot(
        "One seed says nothing about noise: run more (--seeds 5) before comparing settings."
    )


def test_what_diverged_is_said():
    record = grid(diverged=(8,), seeds=2)
    table, others = study_tables(summaries(read_study(record)))
    assert [row[0] for row in table.rows] == ["batch 2", "batch 64", "mean of all settings"]
    assert all(each.title.startswith("2 of 3 settings: ") for each in (table, others))
    assert study_conclusion(summaries(read_study(record))).startswith("Points of accuracy in 2 of 3 settings, ")
    assert next(note for note in table.notes if "iverged" in note) == snapshot(
        "Diverged: batch 8: bn, seed 0: the loss became nan in epoch 2"
    )


def test_headlines():
    assert grid_headline(summaries(read_study(grid()))) == snapshot(
        "A momentum for each layer (dmbn) gains 3.05 ± 0.26 points on torch's default in the mean (half of it from 2 of 3 settings); setting by setting it is shown to do better in 3 of 3."
    )
    assert grid_headline(summaries(read_study(grid(gains={})))) == snapshot(
        "A momentum for each layer (dmbn) is not shown to differ from torch's default in the mean; setting by setting it is shown to do better in none of 3."
    )
    assert grid_headline(summaries(read_study(grid(gains={"dmbn": -0.03})))) == snapshot(
        "A momentum for each layer (dmbn) loses 2.95 ± 0.26 points on torch's default in the mean (half of it from 2 of 3 settings); setting by setting it is shown to do better in none of 3, and worse in 3."
    )
    assert grid_headline(summaries(read_study(grid(diverged=(8,))))) == snapshot(
        "A momentum for each layer (dmbn) gains 2.99 ± 0.23 points on torch's default in the mean (half of it from 1 of 2 settings); setting by setting it is shown to do better in 2 of 2; of 1 more there is no result."
    )
    assert grid_headline(summaries(read_study(grid(diverged=(8,), seeds=1)))) == snapshot(
        "2 of 3 settings, side by side."
    )
    assert grid_headline(summaries(read_study(grid(seeds=1)))) == snapshot("3 settings, side by side.")

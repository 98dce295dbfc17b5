import math
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from scipy import stats

from truenorm.errors import InvalidRecord
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import cell, conclusion, only_summary
from truenorm.metrics.intervals import Interval
from truenorm.record import Measurement, Record

BASE = [0.90, 0.91, 0.92]


def t_interval(values):
    """Mean and half width by the textbook."""
    n, mean = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)


def close(found, mean, half_width):
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.half_width == pytest.approx(half_width, rel=1e-9)


def test_means_over_seeds_with_their_interval(record):
    summary = only_summary(read_study(record({"static-0.1": BASE})))
    close(summary.interval("static-0.1", "accuracy", 100), *t_interval([90, 91, 92]))
    assert summary.interval("static-0.1", "accuracy").n == 3
    assert summary.interval("dmbn", "accuracy") is None
    assert summary.interval("static-0.1", "f_score") is None


def test_this_comparison_sees_the_normal_distribution():
    """Planted: 1.96 instead of the t quantile of three seeds."""
    mean, half_width = t_interval([90, 91, 92])
    with pytest.raises(AssertionError):
        close(Interval(mean, 1.96 / math.sqrt(3), 3), mean, half_width)


def test_differences_are_paired_by_seed(record):
    summary = only_summary(read_study(record({"static-0.1": BASE, "dmbn": [0.91, 0.925, 0.93]})))
    found = summary.difference("dmbn", "accuracy", 100)
    close(found, *t_interval([1.0, 1.5, 1.0]))
    assert found.p == pytest.approx(stats.ttest_rel([91, 92.5, 93], [90, 91, 92]).pvalue, rel=1e-9)
    assert summary.difference("static-0.1", "accuracy") is None
    assert summary.difference("adaptive", "accuracy") is None


def test_differences_to_another_arm(record):
    summary = only_summary(
        read_study(record({"static-0.1": BASE, "dmbn": [0.91, 0.925, 0.93], "gn": [0.8, 0.81, 0.85]}))
    )
    close(summary.difference("dmbn", "accuracy", 100, to="gn"), *t_interval([11.0, 11.5, 8.0]))


def test_a_missing_seed_takes_its_pair_along(record):
    summary = only_summary(read_study(record({"static-0.1": BASE, "gn": [0.80, None, 0.86]})))
    close(summary.difference("gn", "accuracy", 100), *t_interval([-10.0, -6.0]))
    assert summary.seeds_of("gn", "accuracy") == {0: 0.80, 2: 0.86}
    lone = only_summary(read_study(record({"static-0.1": [0.9, None], "gn": [None, 0.8]})))
    assert lone.difference("gn", "accuracy") is None


def test_one_seed_has_no_interval(record):
    found = only_summary(read_study(record({"static-0.1": BASE[:1], "dmbn": [0.92]}))).difference(
        "dmbn", "accuracy", 100
    )
    assert (found.half_width, found.p, found.n) == (None, None, 1)


def test_equal_differences_of_one_image_are_no_certainty(record):
    # One image of 1000 in each of three seeds: its spread is taken to be one image.
    summary = only_summary(read_study(record({"static-0.1": BASE, "dmbn": [a + 0.001 for a in BASE]})))
    found = summary.difference("dmbn", "accuracy", 100)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3), rel=1e-6)
    assert not found.excludes_zero
    # The same differences of a score that does not come in images.
    assert summary.difference("dmbn", "nll").excludes_zero


def test_metrics_of_layers_are_averaged_within_a_seed(record):
    rows = [
        Measurement(f"bn{seed}", "static-0.1", layer, "shift.joint", value, 0.01 * (seed + 1))
        for seed, values in enumerate([(0.1, 0.3), (0.2, 0.6)])
        for layer, value in zip(("bn1", "bn2"), values, strict=True)
    ]
    summary = only_summary(read_study(record({"static-0.1": BASE[:2]}, extra=rows)))
    assert summary.seeds_of("static-0.1", "shift.joint") == {0: pytest.approx(0.2), 1: pytest.approx(0.4)}
    assert summary.layers == ("bn1", "bn2")
    assert summary.noise_floor("joint") == pytest.approx(0.015)
    assert summary.noise_floor("arriving") is None


def test_momenta_by_layer(record):
    rows = [Measurement(f"bn{seed}", "dmbn", "bn1", "momentum", m) for seed, m in enumerate((0.1, 0.5, 0.1))]
    summary = only_summary(read_study(record({"static-0.1": BASE, "dmbn": BASE}, extra=rows)))
    assert summary.momenta_of("dmbn", "bn1") == [0.1, 0.5, 0.1]
    assert summary.momenta_of("dmbn", "bn2") == []


def test_arms_on_the_same_weights_and_networks_of_their_own(record):
    summary = only_summary(read_study(record({"static-0.1": BASE, "bn-bfn": BASE, "dmbn": BASE, "gn": BASE})))
    assert summary.same_weights == ("static-0.1", "dmbn")
    assert summary.networks == ("bn-bfn", "gn")


# Families.

CLEAR = [a + d for a, d in zip(BASE, (0.020, 0.021, 0.019), strict=True)]  # p = 0.0008
SOME = [a + d for a, d in zip(BASE, (0.010, 0.013, 0.011), strict=True)]  # p = 0.006
NOISE = [a + d for a, d in zip(BASE, (0.010, -0.012, 0.004), strict=True)]
BAD = [a - d for a, d in zip(BASE, (0.30, 0.31, 0.32), strict=True)]


def test_a_family_is_judged_by_holm(record):
    def read_claims(number_of_others):
        arms = {"static-0.1": BASE, "some": SOME} | {f"other{i}": NOISE for i in range(number_of_others)}
        summary = only_summary(read_study(record(arms)))
        return summary.beyond_noise(tuple(arms)[1:], "accuracy", 100)

    p = stats.ttest_rel(SOME, BASE).pvalue
    assert list(read_claims(0)) == ["some"]
    assert list(read_claims(int(0.05 / p) - 1)) == ["some"]
    assert read_claims(int(0.05 / p)) == {}


def test_an_arm_of_one_seed_is_not_judged(record):
    summary = only_summary(read_study(record({"static-0.1": BASE, "dmbn": [0.99, None, None]})))
    assert summary.beyond_noise(("dmbn",), "accuracy", 100) == {}


# What is said.


def said(record, arms, **options):
    return conclusion(only_summary(read_study(record(arms, **options))))


def test_one_seed(record):
    assert said(record, {"static-0.1": BASE[:1], "dmbn": [0.99]}) == snapshot(
        "One seed says nothing about noise: run more (--seeds 5) before comparing arms."
    )


def test_nothing_beyond_noise(record):
    assert said(record, {"static-0.1": BASE, "dmbn": NOISE, "adaptive": NOISE[::-1]}) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: no difference beyond noise is shown (Holm, 2 compared); within noise: dmbn +0.07 ± 2.83, adaptive +0.07 ± 5.03."
    )


def test_some_better_and_some_worse(record):
    arms = {"static-0.1": BASE, "static-0.001": BAD, "dmbn": NOISE, "recalibrated": CLEAR, "gn": NOISE, "bn-bfn": CLEAR}
    assert said(record, arms) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: beyond noise (Holm, 2 compared): better recalibrated +2.00 ± 0.25; within noise: dmbn +0.07 ± 2.83; networks of their own, paired by seed: gn +0.07 ± 2.83, bn-bfn +2.00 ± 0.25."
    )


def test_all_that_differ_are_worse(record):
    assert said(record, {"static-0.1": BASE, "static-0.001": BAD}) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: no way of having statistics but the sweep was asked for."
    )


def test_beyond_noise_alone_but_not_in_the_family(record):
    arms = {"static-0.1": BASE, "dmbn": SOME} | {f"static-{m}": NOISE for m in range(2, 15)}
    assert said(record, arms) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: beyond noise (Holm, 1 compared): better dmbn +1.13 ± 0.38."
    )


def test_many_that_are_better(record):
    arms = {"static-0.1": BASE} | {f"static-{m}": [a + m / 1000 for a in CLEAR] for m in range(2, 9)}
    assert said(record, arms) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: no way of having statistics but the sweep was asked for."
    )


def test_nothing_to_compare(record):
    assert said(record, {"static-0.1": BASE}) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: no way of having statistics but the sweep was asked for."
    )


def test_a_record_that_is_not_complete(record):
    arms = {"static-0.1": BASE, "dmbn": NOISE, "gn": [0.80, None, None], "bn-bfn": [None, None, None]}
    assert said(record, arms, complete=False) == snapshot(
        "Points of accuracy against static-0.1, 3 seeds, same weights, ± 95 %: no difference beyond noise is shown (Holm, 1 compared); within noise: dmbn +0.07 ± 2.83; networks of their own, paired by seed: gn -10.00."
    )


# Records that are none of a study.


def refused(record):
    with pytest.raises(InvalidRecord) as caught:
        only_summary(read_study(record))
    return str(caught.value)


def test_records_of_something_else(record):
    assert refused(Record(command="truenorm diagnose")) == snapshot(
        "the record holds no result of arm 'static-0.1'; is it one of truenorm study?"
    )
    whole = record({"static-0.1": BASE})
    assert refused(replace(whole, configuration={"reference": "training"})) == snapshot(
        "the record's configuration lacks images; it is of an older truenorm, or of another command"
    )
    assert refused(replace(whole, trials={"bn0": {"seed": 0}})) == snapshot(
        "the record has rows of a trial 'bn1' that its header does not describe"
    )
    assert refused(replace(whole, trials={f"bn{seed}": {"norm": "bn"} for seed in range(3)})) == snapshot(
        "the record has rows of a trial 'bn0' that its header does not describe"
    )


@pytest.mark.parametrize(
    ("interval", "options", "text"),
    [
        (None, {}, ""),
        (Interval(0.5, 0.25, 5), {"signed": True}, "+0.50 ± 0.25"),
        (Interval(90.0, 0.25, 5), {}, "90.00 ± 0.25"),
        (Interval(-0.5, None, 1), {"signed": True}, "-0.50"),
        (Interval(-0.5, None, 1), {}, "-0.50"),
    ],
)
def test_cells(interval, options, text):
    assert cell(interval, 2, **options) == text

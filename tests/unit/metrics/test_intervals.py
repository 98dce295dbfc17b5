import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from truenorm.errors import InvalidInput
from truenorm.metrics.intervals import Interval, holm, mean_interval, paired

values = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 4)), min_size=2, max_size=12)


def close(a: float | None, b: float) -> None:
    assert a is not None
    assert_close(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), rtol=1e-8, atol=1e-12)


def test_known_interval():
    interval = mean_interval([1.0, 2.0, 3.0])
    close(interval.half_width, 4.302652729911275 / math.sqrt(3))  # t(0.975, 2) from a table, s = 1
    close(interval.low, 2 - 4.302652729911275 / math.sqrt(3))
    close(interval.high, 2 + 4.302652729911275 / math.sqrt(3))
    assert (interval.mean, interval.n, interval.p, interval.excludes_zero) == (2.0, 3, None, False)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == Interval(mean=0.5, half_width=None, n=1, p=None)
    one = paired([1.0], [0.0])
    assert (one.low, one.high, one.p, one.excludes_zero) == (None, None, None, False)


def test_equal_values_have_no_width():
    # 0.1 * 3 is not 0.3 in floating point; the interval must not hang on that.
    assert mean_interval([0.1, 0.1, 0.1]).half_width == 0
    assert mean_interval([0.3, 0.1 * 3]).half_width == 0


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([0.9, 0.8], [0.8, 0.7], 0.0),
        ([0.1 * 3, 0.5], [0.3, 0.5], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
    ],
)
def test_equal_differences(a, b, p):
    difference = paired(a, b)
    assert (difference.half_width, difference.p) == (0, p)
    assert p == 1.0 or difference.excludes_zero


@given(values, st.integers(0, 2**31))
def test_paired_agrees_with_scipy(a, seed):
    b = (
        torch.tensor(a, dtype=torch.float64) + torch.randn(len(a), generator=torch.Generator().manual_seed(seed))
    ).tolist()
    difference, expected = paired(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    close(difference.p, expected.pvalue)
    close(difference.low, interval.low)
    close(difference.high, interval.high)
    # The interval and the test are one statement.
    assert difference.excludes_zero == (expected.pvalue < 0.05)


@given(values)
def test_paired_is_antisymmetric(a):
    b = [x * x for x in a]
    assert paired(a, b).mean == -paired(b, a).mean
    assert paired(a, b).p == paired(b, a).p


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf], [[1.0], [2.0]]])
def test_bad_values_are_refused(bad):
    with pytest.raises(InvalidInput):
        mean_interval(bad)
    with pytest.raises(InvalidInput):
        paired(bad, bad)


def test_unequal_lengths_are_refused():
    with pytest.raises(InvalidInput, match="a has 2 values and b has 1"):
        paired([1.0, 2.0], [1.0])


def test_holm_known_example():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(adjusted) == ["a", "b", "c", "d"]
    for name, expected in {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}.items():
        close(adjusted[name], expected)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_is_monotone_capped_and_never_below_the_raw_value(family):
    adjusted = holm(family)
    assert list(adjusted) == list(family)
    assert all(family[name] <= adjusted[name] <= 1 for name in family)
    ranked = [adjusted[name] for name in sorted(family, key=family.__getitem__)]
    assert ranked == sorted(ranked)
    # Never stricter than Bonferroni.
    assert all(adjusted[name] <= min(1, len(family) * family[name]) for name in family)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(InvalidInput, match="'a'"):
        holm({"a": p})


def test_equal_differences_of_one_step_are_no_certainty():
    step = 1 / 359
    found = paired([0.9 + step] * 3, [0.9] * 3, resolution=step)
    assert not found.excludes_zero
    assert found.p == pytest.approx(0.225, abs=1e-3)  # t = √3 with two degrees of freedom
    assert paired([0.9 + step] * 3, [0.9] * 3).p == 0.0

"""Means over seeds, differences between paired runs, and families of tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from truenorm.errors import InvalidInput

# Numbers computed in float64 and subtracted differ by this much for no reason but rounding.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, how far off it may be with 95 % confidence, and the p-value of a test if one was made.

    Args:
        mean: the mean, in the unit of the values.
        half_width: half the width of the interval, same unit; None where one value allows none.
        n: number of values, or of pairs.
        p: two-sided p-value of "the mean is 0", None where nothing was tested.

    Example:
        >>> difference = Interval(mean=2.0, half_width=0.5, n=5, p=0.001)
        >>> difference.low, difference.high, difference.excludes_zero
        (1.5, 2.5, True)
    """

    mean: float
    half_width: float | None
    n: int
    p: float | None = None

    @property
    def low(self) -> float | None:
        """Lower end, None where there is no interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, None where there is no interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; False where there is no interval."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean_interval(values: Sequence[float]) -> Interval:
    r"""Mean of independent values with its 95 % interval.

    $$ \bar x \pm t_{0.975,\,n-1} \, s / \sqrt n $$

    Args:
        values: one per seed, say; any unit.

    Returns:
        The interval, without a p-value; `half_width` is None for one value, and 0 for values
        that are equal up to rounding.

    Raises:
        InvalidInput: there is no value, or one is not finite.

    Source: Student 1908.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> interval.mean, round(interval.half_width, 3), interval.n
        (2.0, 2.484, 3)
    """
    array = _checked(values, "values")
    return _interval(array, np.abs(array).max())


def paired(a: Sequence[float], b: Sequence[float], *, resolution: float = 0.0) -> Interval:
    """Mean of `a - b` over pairs, with its 95 % interval and the p-value of the paired t test.

    Args:
        a: one value per seed.
        b: one value per seed, of the same seeds in the same order, same unit.
        resolution: the step in which the values come, such as one test image of an accuracy; the
            standard deviation of the differences is not taken to be smaller. Three seeds that each
            differ by the same one image are no certainty.

    Returns:
        The interval of the difference; `half_width` and `p` are None for one pair. If all
        differences are equal up to rounding, and there is no resolution, `half_width` is 0, and `p`
        is 1 if they are 0, else 0.

    Raises:
        InvalidInput: there is no pair, the lengths differ, or a value is not finite.

    Source: Student 1908; two-sided.

    Example:
        >>> difference = paired([0.91, 0.93, 0.92], [0.90, 0.91, 0.91])
        >>> round(difference.mean, 4), round(difference.p, 4), difference.excludes_zero
        (0.0133, 0.0572, False)
    """
    first, second = _checked(a, "a"), _checked(b, "b")
    if len(first) != len(second):
        raise InvalidInput(f"a has {len(first)} values and b has {len(second)}; expected one of each per pair")
    scale = max(np.abs(first).max(), np.abs(second).max())
    interval = _interval(first - second, scale, resolution)
    if interval.half_width is None:
        return interval
    if interval.half_width == 0:
        p = 1.0 if abs(interval.mean) <= _ROUNDING * scale else 0.0
    else:
        critical = float(_student().ppf(0.975, interval.n - 1))
        p = float(2 * _student().sf(abs(interval.mean) / interval.half_width * critical, interval.n - 1))
    return Interval(mean=interval.mean, half_width=interval.half_width, n=interval.n, p=p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    r"""P-values adjusted for the size of their family, step down.

    $$ \tilde p_{(i)} = \min\bigl(1, \max_{j \le i} (m - j + 1) \, p_{(j)}\bigr) $$

    Args:
        p_values: every test of a family fixed in advance, by name.

    Returns:
        Adjusted p-values in the same order; those at or below 0.05 keep the chance of one false
        alarm or more in the whole family at 5 %.

    Raises:
        InvalidInput: a p-value is not between 0 and 1.

    Source: Holm 1979.

    Example:
        >>> holm({"lr": 0.25, "width": 0.125, "depth": 1.0})
        {'lr': 0.5, 'width': 0.375, 'depth': 1.0}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise InvalidInput(f"the p-value of {name!r} is {p}; expected a number from 0 to 1")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def first_of(family: int, num: int) -> float:
    r"""How many standard errors the clearest difference of a family must be, by Holm's first step.

    $$ t_{1 - 0.025 / m, \; n - 1} $$

    Args:
        family: m, differences that are tested together.
        num: n, values each is the mean of, at least 2.

    Example:
        >>> round(first_of(1, 5), 2), round(first_of(36, 3), 1)
        (2.78, 26.8)
    """
    return float(_student().ppf(1 - 0.025 / family, num - 1))


def _interval(values: "np.ndarray[Any, np.dtype[np.float64]]", scale: float, smallest_std: float = 0.0) -> Interval:
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean=mean, half_width=None, n=n)
    if values.max() - values.min() <= _ROUNDING * scale and smallest_std == 0:
        return Interval(mean=mean, half_width=0.0, n=n)
    half_width = float(_student().ppf(0.975, n - 1)) * max(float(values.std(ddof=1)), smallest_std) / math.sqrt(n)
    return Interval(mean=mean, half_width=half_width, n=n)


def _checked(values: Sequence[float], what: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise InvalidInput(f"{what} has shape {array.shape}; expected one row of one number or more")
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidInput(
            f"{what}[{index}] is {array[index]}; a run that gave no finite number has no place in a mean"
        )
    return array


def _student() -> Any:
    return import_module("scipy.stats").t

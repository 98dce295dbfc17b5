"""Parts of sentences: names, counts, scores, formulas."""

from collections.abc import Iterable

from truenorm.metrics.intervals import Interval
from truenorm.show import number


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many there are beside; a number alone is called a layer.

    Example:
        >>> some("abcde"), some("1")
        ('a, b, c and 2 more', 'layer 1')
    """
    labels = [f"layer {name}" if name.isdigit() else name for name in names]
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


def times(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> times(1, "layer"), times(3, "batch")
        ('1 layer', '3 batches')
    """
    plural = noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def with_gain(value: float, gain: Interval, digits: int = 3) -> str:
    """A score with what it gained.

    Example:
        >>> with_gain(0.75, Interval(0.5, 0.1, 9))
        '0.75 (+0.5 ± 0.1)'
    """
    width = "" if gain.half_width is None else f" ± {number(gain.half_width, 2)}"
    return f"{number(value, digits)} ({'+' if gain.mean >= 0 else '−'}{number(abs(gain.mean), 2)}{width})"


def affine(scale: float, offset: Iterable[float], reverse: bool) -> str:
    """Images as a remedy prepares them.

    Example:
        >>> affine(2.0, (1.0,), False)
        '2 · x +1'
    """
    x = "x[:, [2, 1, 0]]" if reverse else "x"
    return f"{scale:.4g} · {x} {', '.join(f'{value:+.3g}' for value in offset)}"

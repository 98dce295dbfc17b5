"""Effects, margins and verdicts in the words that one would say them in."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from truenorm.lab.report.wording import counted
from truenorm.metrics.intervals import Interval

if TYPE_CHECKING:
    from truenorm.lab.claims.claim import Comparison, Unit
    from truenorm.lab.claims.verdict import Ruling, Verdict

RULINGS: "tuple[Ruling, ...]" = ("holds", "does not hold", "cannot tell")

_SAID: "dict[Ruling, tuple[str, str]]" = {  # one, and many
    "holds": ("holds", "hold"),
    "does not hold": ("does not", "do not"),
}
_LARGEST = math.log(1e4)
"""Factors beyond are powers of ten."""


def effect(found: Interval | None, unit: "Unit") -> str:
    """An effect with its 95 % interval.

    Example:
        >>> effect(Interval(0.032, 0.011, 5), "points"), effect(Interval(0.588, 0.182, 5), "factor")
        ('+3.2 ± 1.1 points', '×1.8 (1.5 to 2.2)')
        >>> effect(Interval(-0.3126, 0.0512, 5), "plain"), effect(None, "plain")
        ('-0.313 ± 0.051', '–')
    """
    if found is None:
        return "–"
    if unit == "factor":
        return f"×{factors(found)}"
    if unit == "points":
        return f"{_signed(100 * found.mean, found.half_width and 100 * found.half_width, fewest=1)} points"
    return _signed(found.mean, found.half_width)


def factors(found: Interval) -> str:
    """What the natural logarithm of a number was, as the number: its geometric mean, and from where to where.

    Example:
        >>> factors(Interval(5.83, 0.1, 5)), factors(Interval(0.02, 0.004, 5)), factors(Interval(70.0, None, 1))
        ('340 (308 to 376)', '1.020 (1.016 to 1.024)', '10^30.4')
    """
    # Of a narrow interval as many digits as tell its ends apart.
    width = found.half_width
    digits = 2 if not width or width >= 0.1 else 3 if width >= 0.005 else min(6, 1 - math.floor(math.log10(width)))
    mean = _power(found.mean, digits)
    if found.low is None or found.high is None:
        return mean
    return f"{mean} ({_power(found.low, digits)} to {_power(found.high, digits)})"


def amount(found: Interval | None, unit: "Unit", digits: int) -> str:
    """A mean with its 95 % interval, as a cell of a table.

    Args:
        found: what was measured; None: nothing was.
        unit: see `Column`.
        digits: see `Column`.

    Example:
        >>> amount(Interval(0.9731, 0.004, 5), "points", 2), amount(Interval(2.31234, 0.0123, 5), "plain", 3)
        ('97.31 ± 0.40', '2.31 ± 0.012')
    """
    if found is None:
        return ""
    if unit == "factor":
        return factors(found)
    if unit == "points":
        width = "" if found.half_width is None else f" ± {100 * found.half_width:.{digits}f}"
        return f"{100 * found.mean:.{digits}f}{width}"
    width = "" if found.half_width is None else f" ± {found.half_width:.2g}"
    return f"{found.mean:.{digits}g}{width}"


def margin(part: "Comparison") -> str:
    """The smallest effect that would be worth the claim's words."""
    if part.unit == "factor":
        return f"×{_power(part.margin, 3 if part.margin < 0.5 else 2).removesuffix('.0')}"
    if part.unit == "points":
        return f"{100 * part.margin:.3g} point{'' if part.margin == 0.01 else 's'}"
    return f"{part.margin:.3g}"


def headline(verdicts: "Sequence[Verdict]") -> str:
    """How many claims hold, in a sentence."""
    if len(verdicts) == 1:
        (only,) = verdicts
        return f"“{only.claim.title}”: {only.ruling}."
    return counts([verdict.ruling for verdict in verdicts])


def otherwise(verdicts: "Sequence[Verdict]") -> str:
    """How many claims have comparisons that are ruled otherwise than the primary; of one claim, which; "" if none."""
    if len(verdicts) == 1:
        (only,) = verdicts
        return f"Ruled otherwise in other comparisons: {only.elsewhere}." if only.elsewhere else ""
    number = sum(bool(verdict.elsewhere) for verdict in verdicts)
    return f"{number} of them {'is' if number == 1 else 'are'} ruled otherwise in other comparisons." if number else ""


def counts(rulings: "Sequence[Ruling]") -> str:
    """The same from the rulings alone.

    Example:
        >>> counts(["holds", "does not hold", "does not hold", "cannot tell"])
        'Of 4 things said about batch norm, 1 holds, 2 do not, and of 1 nothing can be told.'
        >>> counts(["holds", "holds"]), counts(["cannot tell", "cannot tell"])
        ('All 2 things said about batch norm hold.', 'Of 2 things said about batch norm, nothing can be told of any.')
        >>> counts(["holds", "does not hold"])
        'Of 2 things said about batch norm, 1 holds and 1 does not.'
    """
    number_of = Counter(rulings)
    many = f"{counted(len(rulings), 'thing')} said about batch norm"
    if len(rulings) > 1 and len(number_of) == 1:
        (only,) = number_of
        return {
            "holds": f"All {many} hold.",
            "does not hold": f"Of {many}, none holds.",
            "cannot tell": f"Of {many}, nothing can be told of any.",
        }[only]
    said: list[str] = []
    for ruling in RULINGS:
        if (number := number_of[ruling]) and ruling in _SAID:
            one, several = _SAID[ruling]
            # "3 do not" says enough only behind "4 hold".
            verb = (one if number == 1 else several) + (" hold" if ruling == "does not hold" and not said else "")
            said.append(f"{number} {verb}")
    if unknown := number_of["cannot tell"]:
        said.append(f"of {unknown} nothing can be told")
    *first, last = said
    comma = "," if len(first) > 1 or unknown else ""
    return f"Of {many}, {', '.join(first)}{comma} and {last}." if first else f"Of {many}, {last}."


def _signed(mean: float, width: float | None, *, fewest: int = 0) -> str:
    """To as many decimals as the width has with two digits, three digits of the mean where there is no width."""
    size = width or abs(mean) / 10
    decimals = fewest if not size else min(2 if fewest else 9, max(fewest, 1 - math.floor(math.log10(size))))
    if fewest and (width is None or size >= 1):
        decimals = fewest
    if max(abs(mean), width or 0.0) >= 1e6:
        return f"{mean:+.2g}" + ("" if width is None else f" ± {width:.2g}")
    return f"{mean:+.{decimals}f}" + ("" if width is None else f" ± {width:.{decimals}f}")


def _power(logarithm: float, digits: int) -> str:
    """e to the power of a logarithm, however large that is."""
    if abs(logarithm) > _LARGEST:
        return f"10^{logarithm / math.log(10):.1f}"
    value = math.exp(logarithm)
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"

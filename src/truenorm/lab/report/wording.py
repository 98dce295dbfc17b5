"""Small pieces of sentences."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "seed"), counted(5, "seed")
        ('1 seed', '5 seeds')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def capitalised(text: str) -> str:
    """With a capital first letter.

    Example:
        >>> capitalised("holds for MLPs")
        'Holds for MLPs'
    """
    return text[:1].upper() + text[1:]


def first_four(texts: Sequence[str]) -> str:
    """The first four of a list, and how many more there are.

    Example:
        >>> first_four(["a", "b"]), first_four(["a", "b", "c", "d", "e"])
        ('a, b', 'a, b, c, d and 1 more')
    """
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")

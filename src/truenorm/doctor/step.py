"""What to do after a diagnosis: steps, each a call of truenorm or a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

When = Literal["do", "then", "later"]
"""Now; after the first step; in the next training."""

Call = Literal["diagnose", "repair"]

_ARGUMENTS: dict[Call, str] = {"diagnose": "model, val_loader", "repair": "model, train_loader"}
_JOINTS: dict[When, str] = {"do": "", "then": "; then ", "later": "; next time: "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do.

    Args:
        text: a line to run, or a sentence.
        when: see `When`.
        call: the function that the line calls; None for a sentence.
        needs_score: the call fails without a score of the user's.

    Example:
        >>> Step(text="call model.eval() before it is exported").when
        'do'
    """

    text: str
    when: When = "do"
    call: Call | None = None
    needs_score: bool = False


def calling(call: Call, *, when: When = "do", needs_score: bool = False) -> Step:
    """A step that calls a function of truenorm, as a line of Python.

    Example:
        >>> calling("repair", needs_score=True).text
        'truenorm.repair(model, train_loader, score=...)'
    """
    arguments = _ARGUMENTS[call] + (", score=..." if needs_score else "")
    return Step(text=f"truenorm.{call}({arguments})", when=when, call=call, needs_score=needs_score)


def in_one_line(steps: Iterable[Step]) -> str:
    """The steps as one sentence.

    Example:
        >>> in_one_line([Step(text="fix the loader"), calling("repair", when="then")])
        'fix the loader; then truenorm.repair(model, train_loader)'
    """
    return "".join(f"{_JOINTS[step.when]}{step.text}" for step in steps)

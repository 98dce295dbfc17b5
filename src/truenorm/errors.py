"""Everything truenorm raises on purpose: one tree, one sentence each.

    TruenormError            something failed                      exit code 1
    ├── InvalidInput         what was asked for cannot be done     exit code 2
    │   ├── UnknownName      a name that is not in a closed set
    │   ├── MissingFunction  only a function of the caller's can say it
    │   └── MissingExtra     an optional dependency is not installed
    ├── DataUnavailable      a data set cannot be found or read
    ├── NotMeasurable        statistics cannot be measured this way
    │   └── NotFinite        the input contains NaN or inf
    ├── Diverged             training left the finite numbers
    ├── FileChanged          a file was written to while it was looked at
    └── InvalidRecord        a record that is damaged or of another format

Each message names the thing, the place and what to do next.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar, Literal

from truenorm.install import install_line

_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "vl_convert": "vl-convert-python"}
"""What a module is called where it is installed from, if not by its own name."""


class TruenormError(Exception):
    """Base of everything truenorm raises on purpose.

    Example:
        >>> issubclass(UnknownName, TruenormError), UnknownName("arm", "x", ["dmbn"]).exit_code
        (True, 2)
    """

    exit_code: ClassVar[int] = 1


class InvalidInput(TruenormError, ValueError):
    """What was asked for cannot be done; nothing was changed."""

    exit_code: ClassVar[int] = 2


class UnknownName(InvalidInput, KeyError):
    """A name was looked up in a closed set and is not there.

    Example:
        >>> print(UnknownName("arm", "dbmn", ["dmbn", "cumulative"]))
        unknown arm 'dbmn'; did you mean 'dmbn'? Known: cumulative, dmbn
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(kind, name, self.known)  # all that pickle needs

    def __str__(self) -> str:
        near = get_close_matches(str(self.name), self.known, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        return f"unknown {self.kind} {self.name!r}{hint} Known: {', '.join(self.known)}"


class MissingFunction(InvalidInput):
    """An argument is needed that is a function of the caller's: `score` or `forward`.

    The message names the argument of Python; the command line names its option.

    Example:
        >>> print(MissingFunction("the batches hold no classes", "score"))
        the batches hold no classes; pass score=lambda output, batch: ...
    """

    def __init__(self, why: str, argument: Literal["score", "forward"]) -> None:
        self.why, self.argument = why, argument
        super().__init__(why, argument)  # all that pickle needs

    def __str__(self) -> str:
        takes = {"score": "output, batch", "forward": "model, batch"}[self.argument]
        return f"{self.why}; pass {self.argument}=lambda {takes}: ..."


class MissingExtra(InvalidInput, ImportError):
    """A module that only an extra brings is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(module, extra)  # all that pickle needs

    def __str__(self) -> str:
        package = _PACKAGES.get(self.module.partition(".")[0], self.module)
        return f"{package} is not installed; run: {install_line(self.extra, package)}"


class DataUnavailable(TruenormError, OSError):
    """A data set cannot be found or read."""


class NotMeasurable(TruenormError, RuntimeError):
    """These statistics cannot be measured this way."""


class NotFinite(NotMeasurable):
    """The input contains NaN or inf."""


class Diverged(TruenormError, ArithmeticError):
    """Training left the finite numbers."""


class FileChanged(TruenormError, RuntimeError):
    """A file was written to while what had been read of it was looked at."""


class InvalidRecord(TruenormError, ValueError):
    """A record is damaged, or of a format that this version does not read."""


@contextmanager
def extra(name: str) -> Generator[None]:
    """Turn a failing import in the block into the sentence that names the extra.

    Example:
        >>> with extra("lab"):
        ...     import no_such_module
        Traceback (most recent call last):
        truenorm.errors.MissingExtra: no_such_module is not installed; run: pip install 'datasets...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or str(error), name) from error

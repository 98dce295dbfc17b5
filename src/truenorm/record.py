"""A record: every number a command measured, and what is needed to measure it again.

One JSON file: a header (configuration, command, versions, machine, format number), tidy rows, one
`Measurement` a line, and confusion matrices, one `ClassCounts` a line. Everything that is shown is made from
records, so nothing is shown that is not kept.
"""

import json
import math
import os
import platform
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, astuple, dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from truenorm.errors import InvalidRecord
from truenorm.files import write_whole

FORMAT = 1

T = TypeVar("T")

_KEYS = ("format", "command", "configuration", "trials", "versions", "machine", "notes", "complete", "columns", "rows")
_OPTIONAL = {"class_counts"}
"""Keys of records that have them: those of commands that count no classes, and of earlier versions, do not."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number.

    Args:
        trial: which training it belongs to; a key of the record's `trials`.
        arm: which statistics, or which network, it was measured under.
        layer: the batch-norm layer, or None where the number is of the whole network.
        metric: what was measured, such as `accuracy` or `shift.joint`.
        value: the number; finite.
        error: its standard error or noise floor, in the same unit, or None.
        n: how many values (images, values per channel, …) it rests on, or None.

    Raises:
        InvalidRecord: value or error is not finite.

    Example:
        >>> Measurement("a1", "static-0.1", None, "accuracy", 0.9, 0.003, 10_000).metric
        'accuracy'
    """

    trial: str
    arm: str
    layer: str | None
    metric: str
    value: float
    error: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for name in ("value", "error"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InvalidRecord(
                    f"{self.metric} of arm {self.arm!r} in trial {self.trial!r} has the {name} {number}; "
                    "a record holds finite numbers only"
                )


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """A confusion matrix. It is no row for each number: of 100 classes that would be 10,000 rows for each arm.

    Args:
        trial: which training it belongs to; a key of the record's `trials`.
        arm: which statistics, or which network, the samples were predicted under.
        counts: how many samples of each true class (rows) were predicted as each class (columns).

    Example:
        >>> ClassCounts("a1", "static-0.1", ((9, 1), (0, 10))).counts[0][1]
        1
    """

    trial: str
    arm: str
    counts: tuple[tuple[int, ...], ...]


Measured = Measurement | ClassCounts
"""What a trial gives, one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Header, rows and confusion matrices; see the module's docstring.

    Example:
        >>> record = Record(command="truenorm study", rows=(Measurement("t", "a", None, "accuracy", 1.0),))
        >>> Record.loads(record.dumps()) == record
        True
    """

    command: str
    rows: tuple[Measurement, ...] = ()
    class_counts: tuple[ClassCounts, ...] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trials: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    machine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    complete: bool = True

    def dumps(self) -> str:
        """The record as strict JSON (no NaN), one row or matrix a line so that differences read well."""
        header = {
            "format": FORMAT,
            "command": self.command,
            "configuration": self.configuration,
            "trials": self.trials,
            "versions": self.versions,
            "machine": self.machine,
            "notes": list(self.notes),
            "complete": self.complete,
            "columns": [f.name for f in fields(Measurement)],
        }
        try:
            head = json.dumps(header, indent=1, allow_nan=False, ensure_ascii=False)
        except ValueError as error:
            raise InvalidRecord(f"the record's header cannot be kept: {error}") from error
        rows = ",\n".join(json.dumps(astuple(row), allow_nan=False, ensure_ascii=False) for row in self.rows)
        matrices = ",\n".join(
            json.dumps([of.trial, of.arm, of.counts], separators=(",", ":"), ensure_ascii=False)
            for of in self.class_counts
        )
        counts = f',\n "class_counts": [\n{matrices}\n]' if matrices else ""
        return f'{head[:-2]},\n "rows": [\n{rows}\n]{counts}}}\n'

    @staticmethod
    def loads(text: str) -> "Record":
        """Read what `dumps` wrote.

        Raises:
            InvalidRecord: the text is not such a record, or of another format number.
        """
        try:
            data: Any = json.loads(text, parse_constant=_refuse)
        except json.JSONDecodeError as error:
            raise InvalidRecord(f"not a record: {error}; was the file cut short?") from error
        except RecursionError as error:
            raise InvalidRecord("not a record: it is nested too deeply") from error
        if not isinstance(data, dict) or "format" not in data:
            raise InvalidRecord("not a record: there is no format number at its top")
        found = cast(dict[str, Any], data)
        if found["format"] != FORMAT:
            raise InvalidRecord(
                f"the record has format {found['format']!r}, this truenorm reads {FORMAT}; read it with what wrote it"
            )
        if odd := (set(found) ^ set(_KEYS)) - _OPTIONAL:
            raise InvalidRecord(f"the record's header is damaged: missing or unknown keys: {', '.join(sorted(odd))}")
        if found["columns"] != [f.name for f in fields(Measurement)]:
            raise InvalidRecord(f"the record's columns are {found['columns']}, not those of format {FORMAT}")
        lists = {key: found.get(key, []) for key in ("rows", "class_counts")}
        for key, value in lists.items():
            if not isinstance(value, list):
                _damaged(key, value)
        rows = tuple(_measurement(number, row) for number, row in enumerate(lists["rows"]))
        counts = tuple(_class_counts(number, matrix) for number, matrix in enumerate(lists["class_counts"]))
        hints = get_type_hints(Record)
        header = {f.name: _typed(found[f.name], hints[f.name], f.name) for f in fields(Record) if f.name not in lists}
        return Record(**header, rows=rows, class_counts=counts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write beside and rename: the file holds the old record or the new one, never a part."""
        # A command line may hold bytes that are no text: JSON has an escape for what Python makes of them.
        write_whole(path, self.dumps().encode(errors="backslashreplace"))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Record":
        """Read a record's file, or the file `record.json` of a folder.

        Raises:
            InvalidRecord: there is no such file, or it is not a record; the path is named.
        """
        target = Path(path)
        if target.is_dir():
            target = target / "record.json"
        try:
            return Record.loads(target.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRecord(f"cannot read {target}: {getattr(error, 'strerror', None) or error}") from error
        except InvalidRecord as error:
            raise InvalidRecord(f"{target}: {error}") from error


def _refuse(constant: str) -> Any:
    raise InvalidRecord(f"the record holds {constant}; a record holds finite numbers only")


def _measurement(number: int, row: Any) -> Measurement:
    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    cells: list[Any] = cast(list[Any], row) if isinstance(row, list) else []
    if len(cells) != len(fields(Measurement)):
        raise InvalidRecord(f"row {number} of the record is damaged: {row!r}")
    trial, arm, layer, metric, value, error, n = cells
    if not (
        all(isinstance(name, str) for name in (trial, arm, metric))
        and (layer is None or isinstance(layer, str))
        and is_number(value)
        and (error is None or is_number(error))
        and (n is None or (isinstance(n, int) and not isinstance(n, bool)))
    ):
        raise InvalidRecord(f"row {number} of the record is damaged: {row!r}")
    try:
        return Measurement(trial, arm, layer, metric, float(value), None if error is None else float(error), n)
    except OverflowError as overflow:
        raise InvalidRecord(f"row {number} of the record is damaged: {reprlib.repr(row)}") from overflow


def _class_counts(number: int, matrix: Any) -> ClassCounts:
    match matrix:
        case [str(trial), str(arm), [*rows]] if all(map(_are_integers, rows)):
            return ClassCounts(trial, arm, tuple(map(tuple, rows)))
        case _:
            raise InvalidRecord(f"matrix {number} of the record's class_counts is damaged: {reprlib.repr(matrix)}")


def _are_integers(row: Any) -> bool:
    return isinstance(row, list) and all(type(count) is int for count in cast(list[Any], row))


def typed(value: Any, kind: type[T], where: str) -> T:
    """A value of JSON as a frozen dataclass, or as whatever its annotation says.

    Args:
        value: what the header holds.
        kind: a dataclass, `tuple[X, ...]`, `Mapping[X, Y]`, a `Literal`, a union, or a plain type.
        where: in the header, for the error.

    Raises:
        InvalidRecord: the value is of another type.

    Example:
        >>> typed(["a", "b"], tuple[str, ...], "sources")
        ('a', 'b')
        >>> typed(["a", 3], tuple[str, ...], "sources")
        Traceback (most recent call last):
        truenorm.errors.InvalidRecord: the record's header is damaged: item 1 of sources is 3
    """
    return _typed(value, kind, where)


def _typed(value: Any, kind: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        given, hints = cast(dict[str, Any], value), get_type_hints(kind)
        names = [f.name for f in fields(kind) if f.name in given or (f.default is f.default_factory is MISSING)]
        return cast(Any, kind)(**{name: _typed(given.get(name), hints[name], f"{name} of {where}") for name in names})
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(
            _typed(item, arguments[0], f"item {i} of {where}") for i, item in enumerate(cast(Sequence[Any], value))
        )
    if origin is Mapping and isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {
            _key(key, arguments[0], where): _typed(item, arguments[1], f"{key!r} of {where}") for key, item in items
        }
    if origin in (Union, UnionType):
        for each in arguments:
            with suppress(InvalidRecord):
                return _typed(value, each, where)
        return _damaged(where, value)
    if origin is Literal:
        return value if value in arguments else _damaged(where, value)
    if kind is float and type(value) is int:
        return float(value)
    return value if kind is Any or type(value) is kind else _damaged(where, value)


def _key(key: str, kind: Any, where: str) -> Any:
    """A key of a mapping: JSON has only text there."""
    return key if kind is str else int(key) if key.lstrip("-").isdecimal() else _damaged(where, key)


def _damaged(where: str, value: Any) -> Any:
    raise InvalidRecord(f"the record's header is damaged: {where} is {reprlib.repr(value)}")


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def this_machine() -> dict[str, Any]:
    """What the numbers were measured on; nothing that names the machine or its user."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()

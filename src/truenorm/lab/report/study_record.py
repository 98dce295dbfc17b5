"""A study's record, parsed once: its settings, one for each cell of the grid, and what was measured in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.lab.report.header import StudyTrial
from truenorm.metrics.confusion import Confusion
from truenorm.record import ClassCounts, Measured, Measurement, Record, typed

_AXES = {"data": "data", "network": "networks", "batch_size": "batch_sizes", "schedule": "schedules", "lr": "lrs"}
"""What a trial calls its place on an axis → what the configuration calls the axis."""

_FORMATS = {"batch_size": "batch {}", "lr": "rate {:g}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResults:
    """Trials that differ in seed and norm alone, and what was measured in them.

    Args:
        label: what tells it from the others of its record; "" where there is no other.
        values: its place on each axis: data, network, batch_size, schedule, and lr where that is an axis.
        trials: what each trial was, by id; those that only tune the rate left out.
        rows: what was measured in these trials.
        confusions: arm → seed → its confusion matrix; empty in records of before there were any.
    """

    label: str
    values: Mapping[str, Any]
    trials: Mapping[str, Mapping[str, Any]]
    rows: tuple[Measurement, ...]
    confusions: Mapping[str, Mapping[int, Confusion]]

    @property
    def diverged(self) -> tuple[str, ...]:
        """One sentence for each trial that gave no numbers."""
        return tuple(
            f"{trial.get('norm')}, seed {trial.get('seed')}: {trial['diverged']}"
            for trial in self.trials.values()
            if trial.get("diverged")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A record of a study.

    Args:
        record: of `truenorm study`.
        settings: in the order of the grid; a plain study has one.
        num_asked: how many settings the study was to have, also those without results.
    """

    record: Record
    settings: tuple[SettingResults, ...]
    num_asked: int


def read_study(record: Record) -> StudyRecord:
    """Parse a study's record.

    Raises:
        InvalidRecord: the header is damaged, or rows belong to a trial that it does not describe.

    Example:
        >>> trials = {str(size): {"norm": "bn", "seed": 0, "batch_size": size} for size in (8, 64)}
        >>> record = Record(command="truenorm study", trials=trials, configuration={"batch_sizes": [8, 64, 512]})
        >>> study = read_study(record)
        >>> [setting.label for setting in study.settings], study.num_asked
        (['batch 8', 'batch 64'], 3)
    """
    for axis in _AXES.values():
        if record.configuration.get(axis) is not None:
            typed(record.configuration[axis], tuple[Any, ...], axis)
    axes = [name for name, axis in _AXES.items() if name != "lr" or record.configuration.get(axis)]
    cells: dict[str, tuple[Any, ...]] = {}
    trials: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for name, trial in record.trials.items():
        if "seed" in trial and not trial.get("tuning"):
            typed(trial, StudyTrial, f"trial {name!r}")
            cells[name] = tuple(trial.get(axis) for axis in axes)
            trials.setdefault(cells[name], {})[name] = trial
    measured: dict[tuple[Any, ...], list[Measured]] = {cell: [] for cell in trials}
    for row in (*record.rows, *record.class_counts):
        if row.trial in cells:
            measured[cells[row.trial]].append(row)
        elif (trial := record.trials.get(row.trial)) is None or ("norm" in trial and not trial.get("tuning")):
            # Trials that tune have rows, and those of other commands, which have no norm.
            raise InvalidRecord(f"the record has rows of a trial {row.trial!r} that its header does not describe")
    varied = [i for i, _ in enumerate(axes) if len({cell[i] for cell in trials}) > 1]
    settings = tuple(
        SettingResults(
            label=", ".join(format_place(axes[i], cell[i]) for i in varied),
            values=dict(zip(axes, cell, strict=True)),
            trials=trials[cell],
            rows=tuple(row for row in measured[cell] if isinstance(row, Measurement)),
            confusions=_confusions(measured[cell], trials[cell]),
        )
        for cell in sorted(trials, key=lambda cell: _place(record, axes, cell))
    )
    asked = prod(len(record.configuration.get(axis) or "-") for axis in _AXES.values())
    return StudyRecord(record=record, settings=settings, num_asked=max(len(settings), asked))


def format_place(axis: str, value: Any) -> str:
    """A value of an axis as people say it.

    Example:
        >>> format_place("batch_size", 64), format_place("network", "mlp")
        ('batch 64', 'mlp')
    """
    return f"{axis} unknown" if value is None else _FORMATS.get(axis, "{}").format(value)


def _confusions(
    measured: Sequence[Measured], trials: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[int, Confusion]]:
    """Arm → seed → its confusion matrix."""
    confusions: dict[str, dict[int, Confusion]] = {}
    sizes: set[int] = set()
    for matrix in measured:
        if isinstance(matrix, ClassCounts):
            try:
                confusion = Confusion(matrix.counts)
            except InvalidInput as error:
                raise InvalidRecord(
                    f"the confusion matrix of arm {matrix.arm!r} in trial {matrix.trial!r} is damaged: {error}"
                ) from error
            sizes.add(len(confusion.counts))
            confusions.setdefault(matrix.arm, {})[int(trials[matrix.trial]["seed"])] = confusion
    if len(sizes) > 1:
        raise InvalidRecord(f"the record has confusion matrices of {' and of '.join(map(str, sorted(sizes)))} classes")
    return confusions


def _place(record: Record, axes: list[str], cell: tuple[Any, ...]) -> tuple[int, ...]:
    """Where a cell stands in the grid as it was asked for; what was not asked for stands last, as it came."""
    grid = [list(record.configuration.get(_AXES[axis]) or ()) for axis in axes]
    return tuple(asked.index(value) if value in asked else len(asked) for asked, value in zip(grid, cell, strict=True))

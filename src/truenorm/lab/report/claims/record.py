"""A record of claims, parsed once, with the verdicts that its numbers give."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from truenorm.errors import InvalidRecord
from truenorm.metrics.intervals import Interval, mean_interval
from truenorm.record import Record, typed

if TYPE_CHECKING:  # importing claims imports torch
    from truenorm.lab.claims.claim import ClaimText
    from truenorm.lab.claims.verdict import Verdict

_BEFORE_PRIMARIES = (
    "This record was made before claims had a primary comparison: it is judged by the claims of this version of "
    "truenorm, whose primaries were chosen afterwards."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    claim: str
    arm: str
    seed: int
    where: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An arm at one place, and what its seeds gave.

    Args:
        arm: what is compared.
        where: the place, such as `{"batch_size": 16}`.
        lr: the learning rate; None where nothing was trained.
        values: metric → seed → value.
    """

    arm: str
    where: Mapping[str, Any]
    lr: float | None
    values: dict[str, dict[int, float]]

    def interval(self, metric: str, scale: float = 1.0) -> Interval | None:
        """Mean over seeds with its 95 % interval; None where nothing was measured."""
        values = self.values.get(metric)
        return mean_interval([scale * values[seed] for seed in sorted(values)]) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """A data set's name, and the number of its images.

    Args:
        name: of the data set.
        train: images that networks were trained on.
        test: images that they were tested on.
    """

    name: str
    train: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsRecord:
    """A record of claims, and what it says of each.

    Args:
        record: of `truenorm claims`.
        verdicts: in the order of the catalogue.
        images: what networks were trained on.
        family: the number of comparisons of the whole catalogue when the record was made.
    """

    record: Record
    verdicts: tuple["Verdict", ...]
    images: ImageCounts
    family: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of what is reported."""
        return tuple(sorted({trial["seed"] for trial in self.record.trials.values()}))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was said while it was measured, without what is of one claim alone."""
        return tuple(note for note in self.record.notes if note.partition(": ")[0] not in self._names)

    @property
    def lacking(self) -> str:
        """What is not there of what was asked for, in a sentence; "" where all is."""
        if self.record.complete:
            return ""
        none = [name for name in self.record.configuration["claims"] if name not in self._names]
        of = f", and none yet of {', '.join(none)}" if none else ""
        return f"The measuring was not finished: there are fewer trials than asked for{of}."

    def notes_of(self, claim: "ClaimText") -> tuple[str, ...]:
        """What was said of one claim, and which of its trials gave no numbers."""
        notes = [note.partition(": ")[2] for note in self.record.notes if note.partition(": ")[0] == claim.name]
        trials = [trial for trial in self.record.trials.values() if trial["claim"] == claim.name]
        lost = Counter(trial["arm"] for trial in trials if trial.get("diverged"))
        if lost:
            each = ", ".join(f"{arm} {number}" for arm, number in lost.items())
            notes.append(
                f"{lost.total()} of {len(trials)} trials gave no finite numbers and are in no mean ({each}): where an "
                "arm is lacking seeds, what is shown of it is of those that went well"
            )
        few = [
            place.arm + (f" ({', '.join(map(format_value, place.where.values()))})" if place.where else "")
            for place in self.places_of(claim)
            if len(place.values.get(claim.picture.metric, ())) < len(self.seeds)
        ]
        if few and self.record.complete:
            notes.append(
                f"not every repetition gave a number for the chart, and those are in no mean: {'; '.join(few)}"
            )
        return tuple(f"{note}." for note in notes)

    def places_of(self, claim: "ClaimText") -> tuple[Place, ...]:
        """What was measured for a claim: place by place as the record has them, and at each in the order of arms."""
        trials = {name: trial for name, trial in self.record.trials.items() if trial["claim"] == claim.name}
        measured: dict[tuple[str, str], Place] = {}
        for row in self.record.rows:
            if (trial := trials.get(row.trial)) is not None and row.layer is None:
                where = trial["where"]
                place = Place(arm=row.arm, where=where, lr=trial.get("lr"), values={})
                place = measured.setdefault((json.dumps(where, sort_keys=True), row.arm), place)
                place.values.setdefault(row.metric, {})[trial["seed"]] = row.value
        wheres = dict.fromkeys(where for where, _ in measured)
        arms = dict.fromkeys([*claim.arms, *(arm for _, arm in measured)])
        return tuple(measured[where, arm] for where in wheres for arm in arms if (where, arm) in measured)

    @property
    def _names(self) -> set[str]:
        return {verdict.claim.name for verdict in self.verdicts}


def read_claims(record: Record) -> ClaimsRecord:
    """Parse a record of claims and judge it.

    Text and effects are read from the record. One of an older truenorm, which has no primary comparisons, is judged
    by the catalogue of this version; a note says so.

    Raises:
        InvalidRecord: the record is not of claims, its header is damaged, or it holds no text of a claim that this
            version does not know.
    """
    from truenorm.lab.claims.measured import judging, measured_claims, recorded_claims
    from truenorm.lab.claims.verdict import verdicts

    configuration = record.configuration
    names = typed(configuration.get("claims"), tuple[str, ...], "claims")
    images = typed(configuration.get("images"), ImageCounts, "images")
    family = typed(configuration.get("family"), int, "family")
    for name, trial in record.trials.items():
        typed(trial, _Trial, f"trial {name!r}")
    if images.test < 1:
        raise InvalidRecord(f"the record's header is damaged: test of images is {images.test}")
    claims = recorded_claims(record)
    if not claims:
        from truenorm.lab.claims.catalogue import CLAIMS  # which imports whatever a claim may train

        claims = measured_claims(record, CLAIMS)
        if "catalogue" in configuration:
            record = replace(record, notes=(*record.notes, _BEFORE_PRIMARIES))
    known = {claim.text.name for claim in claims}
    used = [*names, *(trial["claim"] for trial in record.trials.values())]
    if unknown := [name for name in dict.fromkeys(used) if name not in known]:
        raise InvalidRecord(
            f"the record holds the claim {unknown[0]!r}, which this truenorm does not know; "
            f"show it with the version that made it ({record.versions.get('truenorm', 'unknown')})"
        )
    with judging():
        judged = verdicts(record, claims)
    if not judged:
        raise InvalidRecord("the record holds no trial of a claim; is it one of truenorm claims?")
    return ClaimsRecord(record=record, verdicts=judged, images=images, family=family)


def is_of_claims(record: Record) -> bool:
    """Whether a record is one of `truenorm claims`.

    Example:
        >>> is_of_claims(Record(command="", configuration={"claims": ["higher-rates"]}))
        True
    """
    return "claims" in record.configuration


def place_name(name: str) -> str:
    """The name of an axis of a trial's place, as people say it.

    Example:
        >>> place_name("batch_size")
        'batch size'
    """
    return name.replace("_", " ")


def format_value(value: object) -> str:
    """A value of a trial's place as people write it.

    Example:
        >>> format_value(0.001953125), format_value(1e26), format_value(True), format_value("cnn")
        ('0.00195', '1e26', 'yes', 'cnn')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{3 if abs(value) < 1000 else 6}g}".replace("e+", "e")
    return str(value)

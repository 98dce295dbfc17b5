"""Claims as a record holds them: text and effects, so that the record can be shown when the catalogue has changed."""

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar, cast

from truenorm.errors import InvalidRecord, TruenormError
from truenorm.lab.claims.claim import Claim, ClaimText, Comparison
from truenorm.lab.claims.evidence import Evidence
from truenorm.record import Record, typed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredClaim:
    """A claim and what was measured for it.

    Args:
        text: what is printed of it.
        effects: of each of its parts, seed → effect.
    """

    text: ClaimText
    effects: tuple[Mapping[int, float], ...]


def measured_claims(record: Record, claims: Sequence[Claim]) -> tuple[MeasuredClaim, ...]:
    """The claims with their effects, computed from the record's rows.

    Raises:
        InvalidRecord: an effect cannot be computed of these rows.
    """
    with judging():
        return tuple(_measured(claim, Evidence(record, claim.name)) for claim in claims)


@contextmanager
def judging() -> Generator[None]:
    """Whatever fails in the block, the record gives no verdict: that is one sentence."""
    try:
        yield
    except TruenormError as error:
        raise InvalidRecord(f"no verdict can be taken of the record: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InvalidRecord(
            f"no verdict can be taken of the record ({error!r}); it is of another version of truenorm, or damaged"
        ) from error


def with_catalogue(record: Record, claims: Sequence[Claim]) -> Record:
    """The record with text and effects of the claims in its header; unchanged where an effect cannot be computed."""
    try:
        measured = measured_claims(record, claims)
    except InvalidRecord:  # a report says why; rows that took hours are kept all the same
        return record
    if not all(math.isfinite(value) for claim in measured for part in claim.effects for value in part.values()):
        return record
    plain = json.loads(json.dumps([asdict(claim) for claim in measured]))
    return replace(record, configuration={**record.configuration, "catalogue": plain})


def recorded_claims(record: Record) -> tuple[MeasuredClaim, ...] | None:
    """The claims that the record's header holds; None of a record of an older truenorm.

    Such a record holds only the names of its claims, or their text without a primary comparison.

    Raises:
        InvalidRecord: the header is damaged.
    """
    found: Any = record.configuration.get("catalogue")
    if found is None:
        return None
    claims = typed(found, tuple[MeasuredClaim, ...], "catalogue")
    for claim in claims:
        if len(claim.effects) != len(claim.text.parts):
            raise InvalidRecord(f"the record's header is damaged: {claim.text.name} has effects of other comparisons")
        if claim.text.primary and claim.text.primary not in [part.name for part in claim.text.parts]:
            raise InvalidRecord(f"the record's header is damaged: the primary of {claim.text.name} is not there")
    return claims if all(claim.text.primary for claim in claims) else None


def _measured(claim: Claim, evidence: Evidence) -> MeasuredClaim:
    parts = tuple(_as(Comparison, part) for part in claim.parts)
    return MeasuredClaim(
        text=replace(_as(ClaimText, claim), parts=parts),
        effects=tuple(dict(part.effect(evidence)) for part in claim.parts),
    )


def _as(kind: type[T], value: T) -> T:
    """A value of a subclass as one of the class itself."""
    return kind(**{field.name: getattr(value, field.name) for field in fields(cast(Any, kind))})

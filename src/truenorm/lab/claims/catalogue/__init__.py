"""The claims, one file each, by their number; and those that are not measured yet."""

from collections.abc import Mapping, Sequence

from truenorm.errors import UnknownName
from truenorm.lab.claims.catalogue import (
    affine,
    batch_size,
    bounded,
    consistent,
    convergence,
    covariate_shift,
    deeper,
    dynamic_momentum,
    gradients,
    other_data,
    per_sample,
    population,
    rates,
    recurrent,
    regularisation,
)
from truenorm.lab.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = tuple(
    module.CLAIM
    for module in (
        convergence,
        rates,
        regularisation,
        covariate_shift,
        gradients,
        deeper,
        affine,
        bounded,
        batch_size,
        recurrent,
        consistent,
        other_data,
        per_sample,
        dynamic_momentum,
        population,
    )
)

FAMILY = sum(len(claim.parts) for claim in CLAIMS)
"""How many comparisons all claims make together."""

NOT_YET: Mapping[int, str] = {
    4: "Batch norm makes dropout unnecessary",
    6: "Batch norm smooths the loss landscape",
    15: "Batches that do not represent the data shift the statistics",
    17: "Weight decay and biases before batch norm do nothing",
    18: "Batch norm belongs before the activation, after every layer",
    21: "Batch norm makes networks more accurate and robust",
}
"""Number → title."""


def named(names: Sequence[str]) -> tuple[Claim, ...]:
    """Claims by name, in the order of the catalogue; all of them for none.

    Raises:
        UnknownName: there is no such claim.

    Example:
        >>> [claim.number for claim in named(["higher-rates"])]
        [2]
    """
    known = [claim.name for claim in CLAIMS]
    for name in names:
        if name not in known:
            raise UnknownName("claim", name, known)
    return tuple(claim for claim in CLAIMS if not names or claim.name in names)

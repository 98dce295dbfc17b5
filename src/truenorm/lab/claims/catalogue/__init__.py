"""The claims, one file each, by their number."""

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from truenorm.errors import UnknownName
from truenorm.lab.claims.claim import Claim

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

CLAIMS: tuple[Claim, ...] = tuple(sorted((module.CLAIM for module in _MODULES), key=lambda claim: claim.number))

FAMILY = sum(len(claim.parts) for claim in CLAIMS)
"""How many comparisons all claims make together."""


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

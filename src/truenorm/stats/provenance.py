"""Where statistics come from: typed numbers and names; words are made from them last."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, cast

Flow = Literal["joint", "sequential", "eval"]
Variance = Literal["pooled", "within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How statistics were measured, or by which rule of a watch they were kept.

    Args:
        rule: the rule of a watch.
        flow: of a pass (see `truenorm.measure`).
        variance: `within` is the mean of the batches' own variances.
        samples: samples of a pass.
        processes: processes whose statistics were merged.
        rounds: passes that the sequential flow took where one giant batch did not fit.
        residual: the largest shift of any layer in the last of these, in σ.
        standard_error: of the means, in σ, where a tolerance was given.
        frozen: layers that were left alone.
        skipped: layers that no batch reached.
        unfit: layers that were given something else than they store statistics of, and were left alone.
        repeated: layers that were called more than once per forward.
        measured_beside: layers with a forward of their own, whose input was measured in a second reduction.
        passes_differ: `order`: the batches came in another order in each pass; `images`: they were other images,
            so the sequential statistics are not exact.

    Example:
        >>> Provenance(flow="joint", samples=128, skipped=("auxiliary",)).words()
        {'flow': 'joint', 'samples': 128, 'dropout': 'off, as in evaluation', 'not reached': 'auxiliary'}
    """

    rule: str | None = None
    flow: Flow | None = None
    variance: Variance = "pooled"
    samples: int | None = None
    processes: int | None = None
    rounds: int | None = None
    residual: float | None = None
    standard_error: float | None = None
    frozen: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    measured_beside: tuple[str, ...] = ()
    passes_differ: Literal["order", "images"] | None = None

    def words(self) -> dict[str, str | int]:
        """What is printed: a key and a phrase or a count for whatever there is to say."""
        said = {
            "rule": self.rule,
            "flow": self.flow,
            "samples": self.samples,
            "processes": self.processes,
            "dropout": None if self.flow is None else "off, as in evaluation",
            "variance": "within batches" if self.variance == "within" else None,
            "standard error": None if self.standard_error is None else f"{self.standard_error:.2g} σ",
            "rounds": self.rounds,
            "residual": None if self.residual is None else f"{self.residual:.2g} σ",
            "frozen": ", ".join(self.frozen) or None,
            "not reached": ", ".join(self.skipped) or None,
            "left alone, for its statistics do not fit its input": ", ".join(self.unfit) or None,
            "called more than once per forward": ", ".join(self.repeated) or None,
            "forward of its own, measured beside it (slower)": ", ".join(self.measured_beside) or None,
        }
        phrases: dict[str, str | int] = {key: value for key, value in said.items() if value is not None}
        return phrases | _DIFFERENCES.get(self.passes_differ or "", {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files; `Provenance(**…)` with lists made tuples gives it back."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Provenance":
        """What `to_dict` gave, also after a file.

        Example:
            >>> Provenance.from_dict({"flow": "eval", "frozen": ["bn1"]}).frozen
            ('bn1',)
        """
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            arguments[name] = tuple(cast(list[str], value)) if isinstance(value, list) else value
        return Provenance(**arguments)


def merged(parts: Sequence[Provenance]) -> Provenance:
    """Of statistics that were pooled: what all parts agree on, and the sum of their samples.

    Example:
        >>> merged([Provenance(flow="joint", samples=64), Provenance(flow="joint", samples=192)]).samples
        256
    """
    first, samples = parts[0], [part.samples for part in parts]
    common: dict[str, Any] = {
        name: getattr(first, name) if all(getattr(part, name) == getattr(first, name) for part in parts) else default
        for name, default in _DEFAULTS.items()
    }
    return replace(
        Provenance(**common),
        samples=None if None in samples else sum(filter(None, samples)),
        skipped=tuple(name for name in first.skipped if all(name in part.skipped for part in parts)),
        repeated=tuple(dict.fromkeys(name for part in parts for name in part.repeated)),
    )


_DIFFERENCES = {
    "images": {"not exact": "the images differ between passes (augmentation, or another draw)"},
    "order": {"order": "differs between passes (shuffled), which changes nothing here"},
}
_DEFAULTS = {field.name: field.default for field in fields(Provenance)}

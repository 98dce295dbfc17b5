"""What a study's record says about each arm: means, intervals, differences paired by seed."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from truenorm.errors import InvalidRecord
from truenorm.metrics.intervals import Interval, holm, mean_interval, paired
from truenorm.record import Record

BASELINE = "static-0.1"
NETWORK_NORMS = ("bn-bfn", "gn")


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A record, looked up by arm, metric and seed.

    Args:
        record: of `truenorm study`.

    Raises:
        InvalidRecord: it holds no trial of a study.
    """

    record: Record

    def __post_init__(self) -> None:
        if not self.seeds_of(BASELINE, "accuracy"):
            raise InvalidRecord(f"the record holds no result of arm {BASELINE!r}; is it one of truenorm study?")
        lacking = [
            key for key in ("data_summary", "test_balanced", "reference") if key not in self.record.configuration
        ]
        if lacking:
            raise InvalidRecord(f"the record's configuration lacks {', '.join(lacking)}; is it one of truenorm study?")

    @property
    def same_weights(self) -> tuple[str, ...]:
        """Arms that change only the statistics."""
        return tuple(arm for arm in self._arms() if arm not in NETWORK_NORMS)

    @property
    def networks(self) -> tuple[str, ...]:
        """Arms that change the weights."""
        return tuple(arm for arm in self._arms() if arm in NETWORK_NORMS)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the batch-norm network, in forward order."""
        rows = (row.layer for row in self.record.rows if row.arm == BASELINE and row.layer is not None)
        return tuple(dict.fromkeys(rows))

    def seeds_of(self, arm: str, metric: str) -> dict[int, float]:
        """Seed → the value for the whole network; of a metric of layers, the mean over them."""
        values: dict[int, list[float]] = {}
        for row in self.record.rows:
            if row.arm == arm and row.metric == metric:
                trial: Any = self.record.trials.get(row.trial)
                if trial is None or "seed" not in trial:
                    raise InvalidRecord(
                        f"the record has rows of a trial {row.trial!r} that its header does not describe"
                    )
                values.setdefault(int(trial["seed"]), []).append(row.value)
        return {seed: fmean(found) for seed, found in sorted(values.items())}

    def interval(self, arm: str, metric: str, scale: float = 1.0) -> Interval | None:
        """Mean over seeds with its 95 % interval; None where nothing was measured."""
        values = self.seeds_of(arm, metric)
        return mean_interval([scale * value for value in values.values()]) if values else None

    def difference(self, arm: str, metric: str, scale: float = 1.0, *, to: str = BASELINE) -> Interval | None:
        """Arm minus another, paired by seed; None where no seed has both."""
        a, b = self.seeds_of(arm, metric), self.seeds_of(to, metric)
        common = [seed for seed in a if seed in b]
        if not common or arm == to:
            return None
        # An accuracy comes in steps of one test image.
        step = scale / self.record.configuration["data_summary"]["test"] if metric == "accuracy" else 0.0
        return paired([scale * a[seed] for seed in common], [scale * b[seed] for seed in common], resolution=step)

    def momenta_of(self, arm: str, layer: str) -> list[float]:
        """The momentum that the layer took, seed by seed."""
        return [
            row.value for row in self.record.rows if row.arm == arm and row.layer == layer and row.metric == "momentum"
        ]

    def noise_floor(self, reference: str) -> float | None:
        """Mean over layers and seeds of the floor below which a shift says nothing."""
        floors = [
            row.error
            for row in self.record.rows
            if row.arm == BASELINE and row.metric == f"shift.{reference}" and row.error is not None
        ]
        return fmean(floors) if floors else None

    def beyond_noise(self, arms: tuple[str, ...], metric: str, scale: float) -> dict[str, Interval]:
        """Those arms whose difference to the baseline is none of chance: 95 %, Holm over the family."""
        found = {arm: difference for arm in arms if (difference := self.difference(arm, metric, scale)) is not None}
        tested = {arm: difference.p for arm, difference in found.items() if difference.p is not None}
        adjusted = holm(tested) if tested else {}
        return {arm: found[arm] for arm, p in adjusted.items() if p < 0.05}

    def _arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.arm for row in self.record.rows if row.metric == "accuracy"))


def conclusion(summary: StudySummary) -> str:
    """One plain sentence: what was found, and what is within noise."""
    num_seeds = len(summary.seeds_of(BASELINE, "accuracy"))
    if num_seeds < 2:
        return "One seed says nothing about noise: run more (--seeds 5) before comparing arms."
    # The sweep is a picture of one parameter, not fifteen hypotheses.
    family = tuple(arm for arm in summary.same_weights if not arm.startswith("static-"))
    beyond = summary.beyond_noise(family, "accuracy", 100)
    parts: list[str] = []
    if beyond:
        ranked = sorted(beyond.items(), key=lambda item: -item[1].mean)
        better = [item for item in ranked if item[1].mean > 0]
        worse = [item for item in ranked if item[1].mean < 0][::-1]
        told = [f"{word} {_listed(items)}" for word, items in (("better", better), ("worse", worse)) if items]
        parts.append(f"beyond noise (Holm, {len(family)} compared): {', '.join(told)}")
    elif family:
        parts.append(f"no difference beyond noise is shown (Holm, {len(family)} compared)")
    else:
        parts.append("no way of having statistics but the sweep was asked for")
    named = [arm for arm in ("dmbn", "adaptive", "recalibrated") if arm in family and arm not in beyond]
    differences = {arm: found for arm in named if (found := summary.difference(arm, "accuracy", 100)) is not None}
    within = [arm for arm, found in differences.items() if not found.excludes_zero]
    doubtful = [arm for arm, found in differences.items() if found.excludes_zero]
    for told, arms in (("within noise", within), ("beyond noise only if compared alone", doubtful)):
        if arms:
            parts.append(f"{told}: {', '.join(f'{arm} {_signed(differences[arm])}' for arm in arms)}")
    networks = [f"{arm} {_signed(summary.difference(arm, 'accuracy', 100))}" for arm in summary.networks]
    if networks:
        parts.append(f"networks of their own, paired by seed: {', '.join(networks)}")
    return (
        f"Points of accuracy against {BASELINE}, {num_seeds} seeds, same weights, ± 95 %: "
        f"{'; '.join(part for part in parts if part)}."
    )


def _listed(items: list[tuple[str, Interval]]) -> str:
    shown = [f"{arm} {_signed(interval)}" for arm, interval in items[:4]]
    rest = len(items) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _signed(interval: Interval | None) -> str:
    if interval is None:
        return "not compared"
    width = "" if interval.half_width is None else f" ± {interval.half_width:.2f}"
    return f"{interval.mean:+.2f}{width}"


def cell(interval: Interval | None, digits: int, *, signed: bool = False) -> str:
    """`90.01 ± 0.17`; empty where there is nothing.

    Example:
        >>> cell(Interval(0.5, 0.25, 5), 2, signed=True), cell(None, 2)
        ('+0.50 ± 0.25', '')
    """
    if interval is None:
        return ""
    width = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.mean:{'+' if signed else ''}.{digits}f}{width}"

"""What a setting of a study says about each arm: means, intervals, differences paired by seed."""

from collections.abc import Hashable, Iterable, Mapping
from statistics import fmean
from typing import TypeVar

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.lab.report.header import StudyImages, read_images
from truenorm.lab.report.study_record import SettingResults, StudyRecord
from truenorm.lab.report.wording import first_four
from truenorm.metrics.confusion import Confusion
from truenorm.metrics.intervals import Interval, holm, mean_interval, paired
from truenorm.record import Measurement

K = TypeVar("K", bound=Hashable)

BASELINE = "static-0.1"
NETWORK_NORMS = ("bn-bfn", "gn")
REFERENCES = ("joint", "sequential", "arriving")


class StudySummary:
    """One setting of a study, looked up by arm, metric and seed.

    Args:
        study: the parsed record.
        setting: one of its settings.

    Attributes:
        data: the name of the data set.
        images: how many of which kind.
        same_weights: arms that change only the statistics.
        networks: arms that change the weights.
        seeds: those of which the baseline is there.
        layers: of the batch-norm network, in forward order.
        swept: the momenta of the sweep, ascending, and the arm of each; also of those that no table shows.
        class_names: of the classes of the confusion matrices; their numbers where the record has no names.

    Raises:
        InvalidRecord: the header does not describe its images, or other classes than the matrices have.
    """

    def __init__(self, study: StudyRecord, setting: SettingResults) -> None:
        self.study, self.setting = study, setting
        self._rows: dict[tuple[str, str], list[Measurement]] = {}
        for row in setting.rows:
            self._rows.setdefault((row.arm, row.metric), []).append(row)
        arms = dict.fromkeys(row.arm for row in setting.rows if row.metric == "accuracy")
        self.same_weights = tuple(arm for arm in arms if arm not in NETWORK_NORMS)
        self.networks = tuple(arm for arm in arms if arm in NETWORK_NORMS)
        self.seeds = tuple(self.seeds_of(BASELINE, "accuracy"))
        layers = (row.layer for row in setting.rows if row.arm == BASELINE and row.layer is not None)
        self.layers = tuple(dict.fromkeys(layers))
        members = sorted({arm for arm, _ in self._rows if arm.startswith("static-")})
        self.swept = dict(sorted((momentum, arm) for arm in members if (momentum := _momentum(arm)) is not None))
        self.data = str(setting.values["data"])
        self.images: StudyImages = read_images(study.record.configuration, self.data)
        self.class_names = self._class_names()

    def _class_names(self) -> tuple[str, ...]:
        named = self.images.class_names
        counted = next((len(one.counts) for of in self.setting.confusions.values() for one in of.values()), len(named))
        if named and len(named) != counted:
            raise InvalidRecord(
                f"the record names {len(named)} classes of {self.data!r}, and its confusion matrices have {counted}"
            )
        return named or tuple(map(str, range(counted)))

    def confusions_of(self, arm: str) -> Mapping[int, Confusion]:
        """Seed → the arm's confusion matrix on the test images; empty where none was recorded."""
        return self.setting.confusions.get(arm, {})

    def rows_of(self, arm: str, metric: str) -> tuple[Measurement, ...]:
        """What was measured, trial by trial and layer by layer."""
        return tuple(self._rows.get((arm, metric), ()))

    def seeds_of(self, arm: str, metric: str, layer: str | None = None) -> dict[int, float]:
        """Seed → the value for the whole network; of a metric of layers, of that layer or the mean over all."""
        values: dict[int, list[float]] = {}
        for row in self.rows_of(arm, metric):
            if layer is None or row.layer == layer:
                seed = int(self.setting.trials[row.trial]["seed"])
                values.setdefault(seed, []).append(row.value)
        return {seed: fmean(of_layers) for seed, of_layers in sorted(values.items())}

    def interval(self, arm: str, metric: str, scale: float = 1.0, *, layer: str | None = None) -> Interval | None:
        """Mean over seeds with its 95 % interval; None where nothing was measured."""
        values = self.seeds_of(arm, metric, layer)
        return mean_interval([scale * value for value in values.values()]) if values else None

    def difference(self, arm: str, metric: str, scale: float = 1.0, *, to: str = BASELINE) -> Interval | None:
        """Arm minus another, paired by seed; None where no seed has both."""
        a, b = self.seeds_of(arm, metric), self.seeds_of(to, metric)
        common = [seed for seed in a if seed in b]
        if not common or arm == to:
            return None
        # An accuracy comes in steps of one test image.
        step = scale / self.images.test if metric == "accuracy" else 0.0
        return paired([scale * a[seed] for seed in common], [scale * b[seed] for seed in common], resolution=step)

    def momenta_of(self, arm: str, layer: str) -> list[float]:
        """The momentum that the layer took, seed by seed."""
        return [row.value for row in self.rows_of(arm, "momentum") if row.layer == layer]

    def by_epoch(self, metric: str) -> dict[str, dict[int, Interval]]:
        """Arm → epoch → the value after it, where training was followed (`training_loss@3`: after the third)."""
        intervals: dict[str, dict[int, Interval]] = {}
        for arm, measured in self._rows:
            name, _, epoch = measured.partition("@")
            if name == metric and epoch.isdecimal() and (interval := self.interval(arm, measured)) is not None:
                intervals.setdefault(arm, {})[int(epoch)] = interval
        return intervals

    def noise_floor(self, reference: str, layer: str | None = None) -> float | None:
        """The floor below which a shift says nothing: mean over seeds, and over layers if none is named."""
        rows = self.rows_of(BASELINE, f"shift.{reference}")
        floors = [row.error for row in rows if row.error is not None and layer in (None, row.layer)]
        return fmean(floors) if floors else None

    def differences(self, arms: Iterable[str], metric: str = "accuracy", scale: float = 100) -> dict[str, Interval]:
        """Arm → its difference to the baseline, unless asked otherwise in points; arms that have none are left out."""
        return {arm: value for arm in arms if (value := self.difference(arm, metric, scale)) is not None}

    def beyond_noise(self, arms: Iterable[str], metric: str, scale: float) -> dict[str, Interval]:
        """Those arms whose difference to the baseline is none of chance: 95 %, Holm over the family."""
        return beyond_noise(self.differences(arms, metric, scale))


def beyond_noise(differences: Mapping[K, Interval]) -> dict[K, Interval]:
    """Those that chance does not explain: 95 %, Holm over all of them as one family.

    Example:
        >>> clear, vague = Interval(1.0, 0.2, 5, p=0.001), Interval(0.1, 0.2, 5, p=0.24)
        >>> list(beyond_noise({"batch 2": clear, "batch 64": vague}))
        ['batch 2']
    """
    adjusted = holm({str(i): found.p for i, found in enumerate(differences.values()) if found.p is not None})
    return {key: found for i, (key, found) in enumerate(differences.items()) if adjusted.get(str(i), 1.0) < 0.05}


def num_tested(differences: Mapping[K, Interval]) -> int:
    """How many there are with a p-value: those of several seeds."""
    return sum(difference.p is not None for difference in differences.values())


def summaries(study: StudyRecord) -> tuple[StudySummary, ...]:
    """Those settings of a study that have results; a plain study has one.

    Raises:
        InvalidRecord: none has.
    """
    measured = [
        setting
        for setting in study.settings
        if any(row.arm == BASELINE and row.metric == "accuracy" for row in setting.rows)
    ]
    if measured:
        return tuple(StudySummary(study, setting) for setting in measured)
    if diverged := [sentence for setting in study.settings for sentence in setting.diverged]:
        raise InvalidRecord(f"the study has no result to show; {diverged[0]}")
    raise InvalidRecord(f"the record holds no result of arm {BASELINE!r}; is it one of truenorm study?")


def only_summary(study: StudyRecord) -> StudySummary:
    """The summary of a study of one setting.

    Raises:
        InvalidRecord: it has no result.
        InvalidInput: there are several settings.
    """
    if len(study.settings) > 1:
        labels = ", ".join(repr(setting.label) for setting in study.settings[:4])
        raise InvalidInput(f"the record holds {len(study.settings)} settings ({labels}, …); say which")
    return summaries(study)[0]


def _momentum(arm: str) -> float | None:
    """Of an arm of the sweep; None where its name holds no momentum."""
    try:
        momentum = float(arm.removeprefix("static-"))
    except ValueError:
        return None
    return momentum if 0 < momentum <= 1 else None


def compared(summary: StudySummary) -> tuple[str, ...]:
    """The family of arms that are held against the baseline on the same weights."""
    # The sweep is a picture of one parameter, not fifteen hypotheses.
    return tuple(arm for arm in summary.same_weights if not arm.startswith("static-"))


def conclusion(summary: StudySummary) -> str:
    """One plain sentence: what was found, and what is within noise."""
    num_seeds = len(summary.seeds)
    if num_seeds < 2:
        return "One seed says nothing about noise: run more (--seeds 5) before comparing arms."
    family = compared(summary)
    differences = summary.differences(family)
    beyond = beyond_noise(differences)
    ranked = sorted(beyond, key=lambda arm: -beyond[arm].mean)
    better = [arm for arm in ranked if beyond[arm].mean > 0]
    worse = [arm for arm in reversed(ranked) if beyond[arm].mean < 0]
    unclear = [arm for arm in ("dmbn", "adaptive", "recalibrated") if arm in differences and arm not in beyond]
    lists = {
        "within noise": [arm for arm in unclear if not differences[arm].excludes_zero],
        "beyond noise only if compared alone": [arm for arm in unclear if differences[arm].excludes_zero],
        "networks of their own, paired by seed": summary.networks,
    }
    differences |= summary.differences(summary.networks)

    def values(arms: Iterable[str]) -> list[str]:
        return [f"{arm} {signed(differences.get(arm))}" for arm in arms]

    if beyond:
        sides = {"better": better, "worse": worse}
        listed = ", ".join(f"{word} {first_four(values(arms))}" for word, arms in sides.items() if arms)
        parts = [f"beyond noise (Holm, {len(family)} compared): {listed}"]
    elif family:
        parts = [f"no difference beyond noise is shown (Holm, {len(family)} compared)"]
    else:
        parts = ["no way of having statistics but the sweep was asked for"]
    parts += [f"{label}: {', '.join(values(arms))}" for label, arms in lists.items() if arms]
    return f"Points of accuracy against {BASELINE}, {num_seeds} seeds, same weights, ± 95 %: {'; '.join(parts)}."


def signed(interval: Interval | None) -> str:
    """`+0.50 ± 0.25`, for a sentence.

    Example:
        >>> signed(Interval(0.5, 0.25, 5)), signed(None)
        ('+0.50 ± 0.25', 'not compared')
    """
    return cell(interval, 2, signed=True) or "not compared"


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

"""Several settings of a study: contrasts of two methods in each, and what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from truenorm.lab.report.study_record import SettingResults, format_place
from truenorm.lab.report.summary import BASELINE, NETWORK_NORMS, StudySummary, beyond_noise, cell, signed
from truenorm.metrics.intervals import Interval, first_of, mean_interval, paired
from truenorm.show import Table


@dataclass(frozen=True, slots=True)
class Contrast:
    """One arm minus another, in points of accuracy, paired by seed.

    Args:
        arm: the one.
        to: the other.
        question: what the difference answers, in plain words.
    """

    arm: str
    to: str
    question: str

    @property
    def name(self) -> str:
        """As a heading.

        Example:
            >>> CONTRASTS[0].name
            'dmbn − static-0.1'
        """
        return f"{self.arm} − {self.to}"

    @property
    def same_weights(self) -> bool:
        """Whether both are statistics of the same trained network."""
        return not {self.arm, self.to} & set(NETWORK_NORMS)

    def differences(self, summaries: Sequence[StudySummary]) -> dict[str, Interval]:
        """Label of a setting → the difference there; settings that lack one of the arms are left out."""
        found = {
            summary.setting.label: summary.difference(self.arm, "accuracy", 100, to=self.to) for summary in summaries
        }
        return {label: difference for label, difference in found.items() if difference is not None}

    def mean(self, summaries: Sequence[StudySummary]) -> Interval | None:
        """The mean over settings of each seed that all of them have; those that lack one of the arms are left out."""
        having = [summary for summary in summaries if summary.difference(self.arm, "accuracy", to=self.to) is not None]
        arm, to = (_by_seed(having, of) for of in (self.arm, self.to))
        common = [seed for seed in arm if seed in to]
        if not common:
            return None
        step = 100 / max(summary.images.test for summary in having) / len(having)
        return paired([arm[seed] for seed in common], [to[seed] for seed in common], resolution=step)


CONTRASTS = (
    Contrast("dmbn", BASELINE, "Does a momentum chosen for each layer help? The weights are the same."),
    Contrast(
        "dmbn",
        "recalibrated",
        "Does that momentum give more than the pass over the data by which it is chosen? The weights are the same.",
    ),
    Contrast(
        "pooled-0.1",
        BASELINE,
        "Do the running statistics of truenorm's layers help, at the same momentum? The weights are the same.",
    ),
    Contrast(
        "adaptive",
        "recalibrated",
        "Do averages of the run do what a pass over the data does? The weights are the same.",
    ),
    Contrast(
        "bn-bfn",
        BASELINE,
        "Is it better to make some of the norms batch-free? That is another network; both have torch's statistics.",
    ),
    Contrast(
        "bn-bfn",
        "dmbn",
        "The same against a momentum for each layer. Not equal treatment: dmbn needs a pass over the data, and bn-bfn "
        "has torch's statistics.",
    ),
)


@dataclass(frozen=True, slots=True)
class Concentration:
    """How few settings give half of a mean over settings.

    Args:
        settings: their labels, the largest difference first.
        of: how many settings the mean is over.
    """

    settings: tuple[str, ...]
    of: int

    def __str__(self) -> str:
        return f"half of the mean over settings comes from {len(self.settings)} of {self.of} settings"


def concentration(differences: Mapping[str, Interval]) -> Concentration:
    """The fewest settings whose differences add up to at least half of the sum over all settings.

    They are taken from the largest difference in the direction of the mean.

    Args:
        differences: label of a setting → the difference there.

    Example:
        >>> found = concentration({"a": Interval(0.1, None, 1), "b": Interval(3.0, None, 1)})
        >>> found.settings, str(found)
        (('b',), 'half of the mean over settings comes from 1 of 2 settings')
    """
    total = sum(difference.mean for difference in differences.values())
    sign = 1 if total > 0 else -1
    ranked = sorted(differences, key=lambda label: -sign * differences[label].mean)
    taken, reached = 0, 0.0
    while reached < abs(total) / 2:
        reached += sign * differences[ranked[taken]].mean
        taken += 1
    return Concentration(tuple(ranked[:taken]), len(differences))


def overviews(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """A row for each setting: the baseline, and each contrast there. Means over settings are below.

    The first table has the contrasts on the same weights, a second one those of other networks, if there are any.
    """
    told = {contrast: differences for contrast in CONTRASTS if (differences := contrast.differences(summaries))}
    same = [contrast for contrast in told if contrast.same_weights]
    others = [contrast for contrast in told if not contrast.same_weights]
    study = summaries[0].study
    notes = [
        "Points of accuracy, mean ± 95 % interval over seeds; differences are paired by seed. "
        "*: beyond noise, Holm over the settings of that contrast.",
        *_what_it_takes(list(told.values())),
        "Means: over settings, seed by seed, of the seeds that all have; a setting without an arm is left out there. "
        "That of all settings is one test for each contrast, not one of Holm's family: * where its interval excludes "
        "0. Those of some settings are not tested.",
        *_questions(same, told, summaries),
    ]
    if not study.record.complete:
        notes.append("The study was not finished: fewer trials than asked for.")
    counted = counted_settings(summaries)
    first = Table(
        title=f"{counted}: same weights, other statistics" if others else counted,
        columns=("setting", "seeds", "static-0.1 %", *(contrast.name for contrast in same)),
        rows=_rows(summaries, {contrast: told[contrast] for contrast in same}),
        notes=(*notes, *diverged(study.settings), *study.record.notes),
    )
    if not others:
        return (first,)
    second = Table(
        title=f"{counted}: other networks, paired by seed",
        columns=("setting", "seeds", "static-0.1 %", *(contrast.name for contrast in others)),
        rows=_rows(summaries, {contrast: told[contrast] for contrast in others}),
        notes=_questions(others, told, summaries),
    )
    return (first, second)


def groups(summaries: Sequence[StudySummary]) -> dict[str, list[StudySummary]]:
    """The settings at each place of an axis, for axes of several places, but fewer than there are settings."""
    found: dict[str, list[StudySummary]] = {}
    for axis in summaries[0].setting.values:
        places = dict.fromkeys(summary.setting.values[axis] for summary in summaries)
        if 1 < len(places) < len(summaries):
            for place in places:
                found[format_place(axis, place)] = [one for one in summaries if one.setting.values[axis] == place]
    return found


def _rows(
    summaries: Sequence[StudySummary], told: Mapping[Contrast, Mapping[str, Interval]]
) -> tuple[tuple[str, ...], ...]:
    beyond = {contrast: beyond_noise(differences) for contrast, differences in told.items()}

    def difference(contrast: Contrast, label: str) -> str:
        text = cell(told[contrast].get(label), 2, signed=True)
        return f"{text} *" if label in beyond[contrast] else text

    rows = [
        (
            summary.setting.label,
            str(len(summary.seeds)),
            cell(summary.interval(BASELINE, "accuracy", 100), 2),
            *(difference(contrast, summary.setting.label) for contrast in told),
        )
        for summary in summaries
    ]
    means = [_mean_row("mean of all settings", summaries, tuple(told), " *")]
    means += [_mean_row(f"mean, {label}", those, tuple(told), "") for label, those in groups(summaries).items()]
    return (*rows, *means)


def _questions(
    contrasts: Sequence[Contrast],
    told: Mapping[Contrast, Mapping[str, Interval]],
    summaries: Sequence[StudySummary],
) -> tuple[str, ...]:
    """What each contrast answers, and how few settings give half of its mean."""
    return tuple(
        f"{contrast.name}: {contrast.question}"
        f"{f' {_sentence(half)}.' if (half := _half(contrast, told[contrast], summaries)) else ''}"
        for contrast in contrasts
    )


def _half(
    contrast: Contrast, differences: Mapping[str, Interval], summaries: Sequence[StudySummary]
) -> Concentration | None:
    """None where the mean is within noise: half of what may be 0 says nothing."""
    mean = contrast.mean(summaries)
    return concentration(differences) if mean is not None and mean.excludes_zero else None


def _sentence(half: Concentration) -> str:
    text = str(half)
    return text[0].upper() + text[1:]


def counted_settings(summaries: Sequence[StudySummary]) -> str:
    """`3 settings`, or `2 of 3 settings` where the others have no result."""
    shown, all_of_them = len(summaries), summaries[0].study.num_asked
    return f"{shown} settings" if shown == all_of_them else f"{shown} of {all_of_them} settings"


def _mean_row(label: str, those: Sequence[StudySummary], contrasts: Sequence[Contrast], mark: str) -> tuple[str, ...]:
    base = _by_seed(those, BASELINE)
    means = [contrast.mean(those) for contrast in contrasts]
    return (
        label,
        str(len(base)),
        cell(mean_interval(list(base.values())), 2) if base else "",
        *(cell(found, 2, signed=True) + (mark if found and found.excludes_zero else "") for found in means),
    )


def _by_seed(summaries: Sequence[StudySummary], arm: str) -> dict[int, float]:
    """Seed → the arm's accuracy in percent, as a mean over settings; of the seeds that all of them have."""
    found = [summary.seeds_of(arm, "accuracy") for summary in summaries]
    common = [seed for seed in (found[0] if found else ()) if all(seed in values for values in found)]
    return {seed: fmean(100 * values[seed] for values in found) for seed in common}


def _what_it_takes(families: Sequence[Mapping[str, Interval]]) -> tuple[str, ...]:
    """How large a difference must be for Holm's first step: with few seeds and many settings nothing is."""
    tested = [[found.n for found in family.values() if found.p is not None] for family in families]
    many = max(map(len, tested), default=0)
    if many < 2:
        return ()
    seeds = min(n for family in tested for n in family)
    errors = first_of(many, seeds)
    return (
        f"With {seeds} seeds a difference must be {errors:.{0 if errors >= 10 else 1}f} standard errors for one of "
        f"{many} settings to be beyond noise; more seeds show more.",
    )


def diverged(settings: Sequence[SettingResults]) -> tuple[str, ...]:
    """A sentence for each trial that gave no numbers."""
    return tuple(
        f"Diverged: {setting.label}{': ' if setting.label else ''}{sentence}"
        for setting in settings
        for sentence in setting.diverged
    )


def grid_conclusion(summaries: Sequence[StudySummary]) -> str:
    """In how many settings each contrast is beyond noise, and its range."""
    told = {contrast: differences for contrast in CONTRASTS if (differences := contrast.differences(summaries))}
    if not told:
        return f"{counted_settings(summaries)}; none of the arms that are contrasted was asked for."
    if not any(difference.p is not None for differences in told.values() for difference in differences.values()):
        return "One seed says nothing about noise: run more (--seeds 5) before comparing settings."
    parts: list[str] = []
    for contrast, differences in told.items():
        beyond = beyond_noise(differences)
        better = sum(difference.mean > 0 for difference in beyond.values())
        signs = {"better": better, "worse": len(beyond) - better}
        counted = ", ".join(f"{many} {sign}" for sign, many in signs.items() if many)
        ranked = sorted(differences.values(), key=lambda difference: difference.mean)
        half = _half(contrast, differences, summaries)
        parts.append(
            f"{contrast.name} is beyond noise in {len(beyond)} of {len(differences)}"
            f"{f' ({counted})' if counted else ''}, from {signed(ranked[0])} to {signed(ranked[-1])}, "
            f"mean over settings {signed(contrast.mean(summaries))}"
            f"{f' (half of it from {len(half.settings)} of {half.of})' if half else ''}"
        )
    return (
        f"Points of accuracy in {counted_settings(summaries)}, paired by seed, ± 95 %, Holm over the settings of each "
        f"contrast: {'; '.join(parts)}."
    )

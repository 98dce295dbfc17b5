"""Several settings of a study: contrasts of two methods in each, and what they say together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from truenorm.lab.report.study_record import SettingResults, format_place
from truenorm.lab.report.summary import BASELINE, NETWORK_NORMS, StudySummary, beyond_noise, cell, num_tested, signed
from truenorm.metrics.intervals import Interval, first_of, mean_interval, paired
from truenorm.record import Record
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
        return {
            summary.setting.label: difference
            for summary in summaries
            if (difference := summary.difference(self.arm, "accuracy", 100, to=self.to)) is not None
        }

    def mean(self, summaries: Sequence[StudySummary]) -> Interval | None:
        """The mean over settings of each seed that all of them have; those that lack one of the arms are left out."""
        having = [summary for summary in summaries if summary.difference(self.arm, "accuracy", to=self.to) is not None]
        arm, to = (_by_seed(having, of) for of in (self.arm, self.to))
        common = [seed for seed in arm if seed in to]
        if not common:
            return None
        step = 100 / max(summary.images.test for summary in having) / len(having)
        return paired([arm[seed] for seed in common], [to[seed] for seed in common], resolution=step)


_Families = Mapping[Contrast, Mapping[str, Interval]]
"""Contrast → label of a setting → the difference there."""

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


def differences_by_contrast(summaries: Sequence[StudySummary]) -> dict[Contrast, dict[str, Interval]]:
    """Contrast → label of a setting → the difference there; only contrasts of which a setting has both arms."""
    return {contrast: differences for contrast in CONTRASTS if (differences := contrast.differences(summaries))}


def concentration(differences: Mapping[str, Interval]) -> tuple[str, ...]:
    """The fewest settings whose differences add up to at least half of the sum over all settings.

    They are taken from the largest difference in the direction of the mean.

    Args:
        differences: label of a setting → the difference there.

    Example:
        >>> concentration({"a": Interval(0.1, None, 1), "b": Interval(3.0, None, 1)})
        ('b',)
    """
    total = sum(difference.mean for difference in differences.values())
    sign = 1 if total > 0 else -1
    ranked = sorted(differences, key=lambda label: -sign * differences[label].mean)
    taken, reached = 0, 0.0
    while reached < abs(total) / 2:
        reached += sign * differences[ranked[taken]].mean
        taken += 1
    return tuple(ranked[:taken])


def half_of_mean(mean: Interval | None, differences: Mapping[str, Interval]) -> str:
    """From how many of the settings half of the mean comes, as `2 of 36`; "" where the mean is within noise."""
    if mean is None or not mean.excludes_zero:
        return ""  # half of what may be 0 says nothing
    return f"{len(concentration(differences))} of {len(differences)}"


def overviews(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """A row for each setting: the baseline, and each contrast there. Means over settings are below.

    The first table has the contrasts on the same weights, a second one those of other networks, if there are any.
    """
    families = differences_by_contrast(summaries)
    same = {contrast: differences for contrast, differences in families.items() if contrast.same_weights}
    others = {contrast: differences for contrast, differences in families.items() if not contrast.same_weights}
    study = summaries[0].study
    notes = (
        "Points of accuracy, mean ± 95 % interval over seeds; differences are paired by seed. "
        "*: beyond noise, Holm over the settings of that contrast.",
        *_what_it_takes(families.values()),
        "Means: over settings, seed by seed, of the seeds that all have; a setting without an arm is left out there. "
        "That of all settings is one test for each contrast, not one of Holm's family: * where its interval excludes "
        "0. Those of some settings are not tested.",
        *_questions(same, summaries),
        *unfinished(study.record),
        *diverged(study.settings),
        *study.record.notes,
    )
    counted = counted_settings(summaries)
    if not others:
        return (_overview(counted, summaries, same, notes),)
    return (
        _overview(f"{counted}: same weights, other statistics", summaries, same, notes),
        _overview(f"{counted}: other networks, paired by seed", summaries, others, _questions(others, summaries)),
    )


def groups(summaries: Sequence[StudySummary]) -> dict[str, list[StudySummary]]:
    """The settings at each place of an axis, for axes of several places, but fewer than there are settings."""
    grouped: dict[str, list[StudySummary]] = {}
    for axis in summaries[0].setting.values:
        places = dict.fromkeys(summary.setting.values[axis] for summary in summaries)
        if 1 < len(places) < len(summaries):
            for place in places:
                here = [summary for summary in summaries if summary.setting.values[axis] == place]
                grouped[format_place(axis, place)] = here
    return grouped


def _overview(title: str, summaries: Sequence[StudySummary], families: _Families, notes: tuple[str, ...]) -> Table:
    beyond = {contrast: beyond_noise(differences) for contrast, differences in families.items()}

    def marked(difference: Interval | None, mark: bool) -> str:
        return cell(difference, 2, signed=True) + (" *" if mark else "")

    rows = [
        (
            summary.setting.label,
            str(len(summary.seeds)),
            cell(summary.interval(BASELINE, "accuracy", 100), 2),
            *(
                marked(differences.get(summary.setting.label), summary.setting.label in beyond[contrast])
                for contrast, differences in families.items()
            ),
        )
        for summary in summaries
    ]
    all_and_some = {"mean of all settings": summaries}
    all_and_some |= {f"mean, {label}": some for label, some in groups(summaries).items()}
    for label, some in all_and_some.items():
        base = list(_by_seed(some, BASELINE).values())
        means = [contrast.mean(some) for contrast in families]
        rows.append(
            (
                label,
                str(len(base)),
                cell(mean_interval(base), 2) if base else "",
                *(marked(mean, some is summaries and mean is not None and mean.excludes_zero) for mean in means),
            )
        )
    columns = ("setting", "seeds", "static-0.1 %", *(contrast.name for contrast in families))
    return Table(title=title, columns=columns, rows=tuple(rows), notes=notes)


def _questions(families: _Families, summaries: Sequence[StudySummary]) -> tuple[str, ...]:
    """What each contrast answers, and how few settings give half of its mean."""
    halves = {contrast: half_of_mean(contrast.mean(summaries), families[contrast]) for contrast in families}
    return tuple(
        f"{contrast.name}: {contrast.question}"
        f"{f' Half of the mean over settings comes from {half} settings.' if half else ''}"
        for contrast, half in halves.items()
    )


def counted_settings(summaries: Sequence[StudySummary]) -> str:
    """`3 settings`, or `2 of 3 settings` where the others have no result."""
    shown, all_of_them = len(summaries), summaries[0].study.num_asked
    return f"{shown} settings" if shown == all_of_them else f"{shown} of {all_of_them} settings"


def _by_seed(summaries: Sequence[StudySummary], arm: str) -> dict[int, float]:
    """Seed → the arm's accuracy in percent, as a mean over settings; of the seeds that all of them have."""
    accuracies = [summary.seeds_of(arm, "accuracy") for summary in summaries]
    common = [seed for seed in (accuracies[0] if accuracies else ()) if all(seed in values for values in accuracies)]
    return {seed: fmean(100 * values[seed] for values in accuracies) for seed in common}


def _what_it_takes(families: Iterable[Mapping[str, Interval]]) -> tuple[str, ...]:
    """How large a difference must be for Holm's first step: with few seeds and many settings nothing is."""
    tested = [[each.n for each in family.values() if each.p is not None] for family in families]
    many = max(map(len, tested), default=0)
    if many < 2:
        return ()
    seeds = min(n for family in tested for n in family)
    errors = first_of(many, seeds)
    return (
        f"With {seeds} seeds a difference must be {errors:.{0 if errors >= 10 else 1}f} standard errors for one of "
        f"{many} settings to be beyond noise; more seeds show more.",
    )


def unfinished(record: Record) -> tuple[str, ...]:
    """A sentence about trials that are not there yet."""
    return () if record.complete else ("The study was not finished: fewer trials than asked for.",)


def diverged(settings: Sequence[SettingResults]) -> tuple[str, ...]:
    """A sentence for each trial that gave no numbers."""
    return tuple(
        f"Diverged: {setting.label}{': ' if setting.label else ''}{sentence}"
        for setting in settings
        for sentence in setting.diverged
    )


def grid_conclusion(summaries: Sequence[StudySummary]) -> str:
    """In how many settings each contrast is beyond noise, and its range."""
    families = differences_by_contrast(summaries)
    if not families:
        return f"{counted_settings(summaries)}; none of the arms that are contrasted was asked for."
    if not any(map(num_tested, families.values())):
        return "One seed says nothing about noise: run more (--seeds 5) before comparing settings."
    parts: list[str] = []
    for contrast, differences in families.items():
        beyond = beyond_noise(differences)
        better = sum(difference.mean > 0 for difference in beyond.values())
        signs = {"better": better, "worse": len(beyond) - better}
        counted = ", ".join(f"{many} {sign}" for sign, many in signs.items() if many)
        ranked = sorted(differences.values(), key=lambda difference: difference.mean)
        mean = contrast.mean(summaries)
        half = half_of_mean(mean, differences)
        parts.append(
            f"{contrast.name} is beyond noise in {len(beyond)} of {len(differences)}"
            f"{f' ({counted})' if counted else ''}, from {signed(ranked[0])} to {signed(ranked[-1])}, "
            f"mean over settings {signed(mean)}{f' (half of it from {half})' if half else ''}"
        )
    return (
        f"Points of accuracy in {counted_settings(summaries)}, paired by seed, ± 95 %, Holm over the settings of each "
        f"contrast: {'; '.join(parts)}."
    )

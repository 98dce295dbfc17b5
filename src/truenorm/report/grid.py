"""Several settings of a study: three contrasts in each, and what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from truenorm.metrics.intervals import Interval, holm
from truenorm.report.settings import Setting, settings
from truenorm.report.summary import BASELINE, StudySummary, cell, signed
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

    def differences(self, summaries: Sequence[StudySummary]) -> dict[str, Interval]:
        """Label of a setting → the difference there; settings that lack one of the arms are left out."""
        found = {
            summary.chosen.label: summary.difference(self.arm, "accuracy", 100, to=self.to) for summary in summaries
        }
        return {label: difference for label, difference in found.items() if difference is not None}


CONTRASTS = (
    Contrast("dmbn", BASELINE, "Does a momentum chosen for each layer help? The weights are the same."),
    Contrast(
        "adaptive",
        "recalibrated",
        "Do averages of the run do what a pass over the data does? The weights are the same.",
    ),
    Contrast("bn-bfn", "dmbn", "Is it better to make some of the norms batch-free? That is another network."),
)


def beyond_noise(differences: Mapping[str, Interval]) -> dict[str, Interval]:
    """Those that are none of chance: 95 %, Holm over the settings of one contrast.

    Example:
        >>> clear, vague = Interval(1.0, 0.2, 5, p=0.001), Interval(0.1, 0.2, 5, p=0.24)
        >>> list(beyond_noise({"batch 2": clear, "batch 64": vague}))
        ['batch 2']
    """
    tested = {label: difference.p for label, difference in differences.items() if difference.p is not None}
    adjusted = holm(tested) if tested else {}
    return {label: differences[label] for label, p in adjusted.items() if p < 0.05}


def overview(summaries: Sequence[StudySummary]) -> Table:
    """One row a setting: the baseline, and what each contrast is there."""
    told = {contrast: differences for contrast in CONTRASTS if (differences := contrast.differences(summaries))}
    beyond = {contrast: beyond_noise(differences) for contrast, differences in told.items()}

    def difference(contrast: Contrast, label: str) -> str:
        text = cell(told[contrast].get(label), 2, signed=True)
        return f"{text} *" if label in beyond[contrast] else text

    rows = tuple(
        (
            summary.chosen.label,
            str(len(summary.seeds)),
            cell(summary.interval(BASELINE, "accuracy", 100), 2),
            *(difference(contrast, summary.chosen.label) for contrast in told),
        )
        for summary in summaries
    )
    record = summaries[0].record
    notes = [
        "Points of accuracy, mean ± 95 % interval over seeds; differences are paired by seed. "
        "*: beyond noise, Holm over the settings of that contrast.",
        *(f"{contrast.name}: {contrast.question}" for contrast in told),
    ]
    if not record.complete:
        notes.append("The study was not finished: fewer trials than asked for.")
    return Table(
        title=f"{len(summaries)} settings",
        columns=("setting", "seeds", "static-0.1 %", *(contrast.name for contrast in told)),
        rows=rows,
        notes=(*notes, *diverged(settings(record)), *record.notes),
    )


def diverged(found: Sequence[Setting]) -> tuple[str, ...]:
    """A sentence for each trial that gave no numbers."""
    return tuple(
        f"Diverged: {setting.label}{': ' if setting.label else ''}{sentence}"
        for setting in found
        for sentence in setting.diverged
    )


def grid_conclusion(summaries: Sequence[StudySummary]) -> str:
    """In how many settings each contrast is beyond noise, and its range."""
    told = {contrast: differences for contrast in CONTRASTS if (differences := contrast.differences(summaries))}
    if not told:
        return f"{len(summaries)} settings; none of the arms that are contrasted was asked for."
    if not any(difference.p is not None for differences in told.values() for difference in differences.values()):
        return "One seed says nothing about noise: run more (--seeds 5) before comparing settings."
    parts: list[str] = []
    for contrast, differences in told.items():
        beyond = beyond_noise(differences)
        better = sum(difference.mean > 0 for difference in beyond.values())
        signs = {"better": better, "worse": len(beyond) - better}
        counted = ", ".join(f"{many} {sign}" for sign, many in signs.items() if many)
        ranked = sorted(differences.values(), key=lambda difference: difference.mean)
        parts.append(
            f"{contrast.name} is beyond noise in {len(beyond)} of {len(differences)}"
            f"{f' ({counted})' if counted else ''}, from {signed(ranked[0])} to {signed(ranked[-1])}"
        )
    return (
        f"Points of accuracy in {len(summaries)} settings, paired by seed, ± 95 %, Holm over the settings of each "
        f"contrast: {'; '.join(parts)}."
    )

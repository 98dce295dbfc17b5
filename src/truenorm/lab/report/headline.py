"""What a study found, in the words that one would say it in."""

from collections.abc import Mapping, Sequence

from truenorm.lab.report.grid import CONTRASTS, concentration, counted_settings
from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, compared
from truenorm.metrics.intervals import Interval
from truenorm.show import number


def headline(summary: StudySummary) -> str:
    """Of one setting: what is better than torch's default."""
    if len(summary.seeds) < 2:
        return "One seed says nothing about noise; more are needed before anything is compared."
    family = compared(summary)
    if not family:
        return "The sweep of momenta, and nothing to compare it with."
    beyond = summary.beyond_noise(family, "accuracy", 100)
    better = {arm: found for arm, found in beyond.items() if found.mean > 0}
    worse = {arm: found for arm, found in beyond.items() if found.mean < 0}
    if better:
        said = f"{_listed(better)} {_do(better)} better than torch's default on the same weights, by {_range(better)}"
        said += f"; {_listed(worse)} {_do(worse)} worse" if worse else ""
    elif worse:
        said = f"Nothing is shown to do better than torch's default; {_listed(worse)} {_do(worse)} worse"
    else:
        ways = f"any of the {len(family)} ways" if len(family) > 1 else "the one way"
        said = f"No difference in accuracy is shown between torch's default statistics and {ways} compared"
    return f"{said}."


def grid_headline(summaries: Sequence[StudySummary]) -> str:
    """Of several settings: where a momentum for each layer is worth something."""
    contrast = CONTRASTS[0]
    differences = contrast.differences(summaries)
    if not any(difference.p is not None for difference in differences.values()):
        return f"{counted_settings(summaries)}, side by side."
    beyond = beyond_noise(differences)
    better, worse = (sum(sign * found.mean > 0 for found in beyond.values()) for sign in (1, -1))
    counted = f"is shown to do better in {better or 'none'} of {len(differences)}"
    counted += f", and worse in {worse}" if worse else ""
    said = f"A momentum for each layer (dmbn) {_in_the_mean(contrast.mean(summaries), differences)}{counted}"
    lacking = summaries[0].study.num_asked - len(differences)
    return f"{said}; of {lacking} more there is no result." if lacking else f"{said}."


def _in_the_mean(mean: Interval | None, differences: Mapping[str, Interval]) -> str:
    if mean is None or mean.half_width is None:
        return ""
    if not mean.excludes_zero:
        return "is not shown to differ from torch's default in the mean; setting by setting it "
    does = f"{'gains' if mean.mean > 0 else 'loses'} {abs(mean.mean):.2f} ± {mean.half_width:.2f} points"
    half = concentration(differences)
    few = f"half of it from {len(half.settings)} of {half.of} settings"
    return f"{does} on torch's default in the mean ({few}); setting by setting it "


def shift_sentence(summary: StudySummary) -> tuple[str, ...]:
    """How much nearer to the population a momentum for each layer comes, where that is plain and no noise."""
    before, after = summary.interval(BASELINE, "shift.joint"), summary.interval("dmbn", "shift.joint")
    if before is None or after is None or after.mean * 2 > before.mean:
        return ()
    if min(before.n, after.n) < 2 or before.mean <= (summary.noise_floor("joint") or 0.0):
        return ()
    told = f"{number(before.mean, 2)} to {number(after.mean, 2)} σ"
    return (
        "A momentum for each layer (dmbn) brings the statistics nearer to those of the data, against which it is "
        f"chosen: from {told} off.",
    )


def _listed(found: dict[str, Interval]) -> str:
    ranked = sorted(found, key=lambda arm: -abs(found[arm].mean))
    if len(ranked) > 3:
        return f"{', '.join(ranked[:2])} and {len(ranked) - 2} others"
    return " and ".join(filter(None, [", ".join(ranked[:-1]), ranked[-1]]))


def _do(found: dict[str, Interval]) -> str:
    return "does" if len(found) == 1 else "do"


def _range(found: dict[str, Interval]) -> str:
    low, high = min(each.mean for each in found.values()), max(each.mean for each in found.values())
    return f"{high:.1f} points" if round(low, 1) == round(high, 1) else f"{low:.1f} to {high:.1f} points"

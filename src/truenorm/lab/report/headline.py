"""What a study found, in the words that one would say it in."""

from collections.abc import Mapping, Sequence

from truenorm.lab.report.grid import CONTRASTS, counted_settings, half_of_mean
from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, compared, num_tested
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
    better = {arm: difference.mean for arm, difference in beyond.items() if difference.mean > 0}
    worse = {arm: difference.mean for arm, difference in beyond.items() if difference.mean < 0}
    if better:
        worse_too = f"; {_do(worse)} worse" if worse else ""
        return f"{_do(better)} better than torch's default on the same weights, by {_range(better)}{worse_too}."
    if worse:
        return f"Nothing is shown to do better than torch's default; {_do(worse)} worse."
    ways = f"any of the {len(family)} ways" if len(family) > 1 else "the one way"
    return f"No difference in accuracy is shown between torch's default statistics and {ways} compared."


def grid_headline(summaries: Sequence[StudySummary]) -> str:
    """Of several settings: where a momentum for each layer is worth something."""
    contrast = CONTRASTS[0]
    differences = contrast.differences(summaries)
    if not num_tested(differences):
        return f"{counted_settings(summaries)}, side by side."
    beyond = beyond_noise(differences)
    better, worse = (sum(sign * difference.mean > 0 for difference in beyond.values()) for sign in (1, -1))
    lacking = summaries[0].study.num_asked - len(differences)
    return (
        f"A momentum for each layer (dmbn) {_on_average(contrast.mean(summaries), differences)}"
        f"is shown to do better in {better or 'none'} of {len(differences)}"
        f"{f', and worse in {worse}' if worse else ''}"
        f"{f'; of {lacking} more there is no result' if lacking else ''}."
    )


def _on_average(mean: Interval | None, differences: Mapping[str, Interval]) -> str:
    if mean is None or mean.half_width is None:
        return ""
    if not (half := half_of_mean(mean, differences)):
        return "is not shown to differ from torch's default in the mean; setting by setting it "
    return (
        f"{'gains' if mean.mean > 0 else 'loses'} {abs(mean.mean):.2f} ± {mean.half_width:.2f} points on torch's "
        f"default in the mean (half of it from {half} settings); setting by setting it "
    )


def shift_sentence(summary: StudySummary) -> tuple[str, ...]:
    """How much nearer to the population a momentum for each layer comes, where that is plain and no noise."""
    before, after = summary.interval(BASELINE, "shift.joint"), summary.interval("dmbn", "shift.joint")
    if before is None or after is None or after.mean * 2 > before.mean:
        return ()
    if min(before.n, after.n) < 2 or before.mean <= (summary.noise_floor("joint") or 0.0):
        return ()
    return (
        "A momentum for each layer (dmbn) brings the statistics nearer to those of the data, against which it is "
        f"chosen: from {number(before.mean, 2)} to {number(after.mean, 2)} σ off.",
    )


def _do(differences: Mapping[str, float]) -> str:
    """`dmbn does`, `dmbn and adaptive do`, `dmbn, adaptive and 2 others do`."""
    ranked = sorted(differences, key=lambda arm: -abs(differences[arm]))
    if len(ranked) == 1:
        return f"{ranked[0]} does"
    *first, last = ranked if len(ranked) <= 3 else [*ranked[:2], f"{len(ranked) - 2} others"]
    return f"{', '.join(first)} and {last} do"


def _range(differences: Mapping[str, float]) -> str:
    low, high = (f"{end(differences.values()):.1f}" for end in (min, max))
    return f"{high} points" if low == high else f"{low} to {high} points"

"""Several records side by side: each arm against the same arm of the first record."""

from collections.abc import Mapping

from truenorm.errors import InvalidInput
from truenorm.lab.report.charts.forest import difference_by_record, forest_rows
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.page import Section, Tables, page
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, cell, compared, only_summary
from truenorm.metrics.intervals import Interval, paired
from truenorm.record import Record
from truenorm.show import Table

_ONE_SEED = "No arm has two seeds in common with the first record: nothing can be told from noise."


class Comparison:
    """Records of one setting each, by name; the first is what the others are compared with.

    Args:
        records: name → record; two or more.

    Attributes:
        summaries: name → what the record says.

    Raises:
        InvalidInput: one of them holds several settings.
        InvalidRecord: one of them is not of a study.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = records
        self.summaries: dict[str, StudySummary] = {}
        for name, record in records.items():
            study = read_study(record)
            if (many := len(study.settings)) > 1:
                raise InvalidInput(f"{name} holds {many} settings; records side by side hold one each")
            self.summaries[name] = only_summary(study)

    @property
    def first(self) -> str:
        """The name of the record that the others are held against."""
        return next(iter(self.records))

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of any of the records, but for the sweep: it is a picture of one parameter, not fifteen hypotheses."""
        found = self.summaries.values()
        return tuple(dict.fromkeys(arm for one in found for arm in (BASELINE, *compared(one), *one.networks)))

    @property
    def same_test(self) -> bool:
        """Whether all answer the same test images; else there is nothing that their difference would mean."""
        tests = [(one.data, one.images.test, one.images.imbalance) for one in self.summaries.values()]
        return len(set(tests)) == 1

    def differences(self) -> dict[tuple[str, str], Interval]:
        """(arm, name) → that record minus the first, in points, paired by seed; empty where tests differ."""
        if not self.same_test:
            return {}
        summaries = dict(self.summaries)
        base = summaries.pop(self.first)
        step = 100 / base.images.test
        found: dict[tuple[str, str], Interval] = {}
        for arm in self.arms:
            before = base.seeds_of(arm, "accuracy")
            for name, summary in summaries.items():
                after = summary.seeds_of(arm, "accuracy")
                common = [seed for seed in after if seed in before]
                if common:
                    new, old = ([100 * values[seed] for seed in common] for values in (after, before))
                    found[arm, name] = paired(new, old, resolution=step)
        return found


def comparison_table(comparison: Comparison) -> Table:
    """One row an arm: its accuracy in each record, and the difference to the first."""
    differences = comparison.differences()
    beyond = beyond_noise(differences)
    summaries = comparison.summaries
    letter = dict(zip(summaries, _letters(len(summaries)), strict=True))

    def cells(arm: str, name: str) -> tuple[str, ...]:
        accuracy = cell(summaries[name].interval(arm, "accuracy", 100), 2)
        if name == comparison.first or not differences:
            return (accuracy,)
        found = differences.get((arm, name))
        return (accuracy, cell(found, 2, signed=True), _verdict(found, (arm, name) in beyond))

    def heads(name: str) -> tuple[str, ...]:
        accuracy = f"{letter[name]} accuracy %"
        if name == comparison.first or not differences:
            return (accuracy,)
        return (accuracy, f"{letter[name]} − A", "which is")

    return Table(
        title="records side by side",
        columns=("arm", *(head for name in summaries for head in heads(name))),
        rows=tuple((arm, *(part for name in summaries for part in cells(arm, name))) for arm in comparison.arms),
        notes=(*(f"{letter[name]}: {name}{_seeds(one)}" for name, one in summaries.items()), _told(comparison)),
    )


def comparison_conclusion(comparison: Comparison) -> str:
    """What differs beyond noise, or why nothing is compared."""
    differences = comparison.differences()
    if not comparison.same_test:
        tests = dict.fromkeys(f"{one.images.test:,} of {one.data}" for one in comparison.summaries.values())
        return f"No differences are taken: the records answer other test images ({', '.join(tests)})."
    tested = sum(found.p is not None for found in differences.values())
    if not tested:
        return _ONE_SEED
    beyond = beyond_noise(differences)
    if not beyond:
        return f"No difference to {comparison.first} beyond noise is shown (Holm, {tested} compared)."
    ranked = sorted(beyond, key=lambda key: -abs(differences[key].mean))
    several = len(comparison.records) > 2
    told = [
        f"{arm}{f' of {name}' if several else ''} {cell(differences[arm, name], 2, signed=True)}"
        for arm, name in ranked[:4]
    ]
    more = f" and {len(ranked) - 4} more" if len(ranked) > 4 else ""
    return (
        f"Points of accuracy against {comparison.first}, paired by seed, ± 95 %: {len(beyond)} of {tested} "
        f"beyond noise (Holm): {', '.join(told)}{more}."
    )


def comparison_figures(comparison: Comparison) -> tuple[Figure, ...]:
    """For each record but the first, its differences to that."""
    differences = comparison.differences()
    beyond = beyond_noise(differences)
    figures: list[Figure] = []
    for number, name in enumerate(comparison.records):
        own = {arm: found for (arm, of), found in differences.items() if of == name}
        shown = forest_rows(own, {arm: found for arm, found in own.items() if (arm, name) in beyond})
        if shown:
            title = f"{name} − {comparison.first}"
            figures += difference_by_record(title, f"difference-by-record-{number}", shown)
    return tuple(figures)


def comparison_page(comparison: Comparison) -> str:
    """The page of several records: HTML, complete in itself.

    Raises:
        MissingExtra: what draws is not installed.
    """
    differences = comparison.differences()
    beyond = beyond_noise(differences)
    tested = sum(found.p is not None for found in differences.values())
    if not comparison.same_test:
        headline = "Studies side by side; their tests differ, so no differences are taken."
    elif not tested:
        headline = _ONE_SEED
    else:
        headline = f"{len(beyond) or 'None'} of {tested} differences between these studies "
        headline += "is beyond noise." if len(beyond) < 2 else "are beyond noise."
    made = tuple((name, record.command) for name, record in comparison.records.items())
    return page(
        f"truenorm report · {len(comparison.records)} records",
        headline,
        Section(
            heading="Side by side",
            parts=(Tables(views=((comparison_table(comparison),),)), *comparison_figures(comparison)),
        ),
        Section(heading="How these were made", lines=made),
        text=(comparison_conclusion(comparison),),
    )


def _letters(many: int) -> list[str]:
    """A, B, … Z, AA, …: columns have no room for names."""
    return [(chr(ord("A") + i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26) for i in range(many)]


def _seeds(summary: StudySummary) -> str:
    many = len(summary.seeds)
    return f" ({many} seed{'s' if many > 1 else ''}, {summary.images.test:,} images of {summary.data} to test)"


def _told(comparison: Comparison) -> str:
    if not comparison.same_test:
        return "The records answer other test images: accuracies stand side by side, and no differences are taken."
    return "Differences are paired by seed, in points, ± 95 %; beyond noise: Holm over all of them."


def _verdict(found: Interval | None, beyond: bool) -> str:
    if found is None:
        return ""
    if found.p is None:
        return "one seed"
    return "beyond noise" if beyond else "within noise"

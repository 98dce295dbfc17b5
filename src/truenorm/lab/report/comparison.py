"""Several records side by side: each arm against the same arm of the first record."""

from collections.abc import Mapping

from truenorm.errors import InvalidInput, extra
from truenorm.lab.report.figure import Figure
from truenorm.lab.report.page import Section, Tables, page
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import BASELINE, StudySummary, beyond_noise, cell, compared, num_tested, only_summary
from truenorm.lab.report.wording import counted, first_four
from truenorm.metrics.intervals import Interval, paired
from truenorm.record import Record
from truenorm.show import Table

_ONE_SEED = "No arm has two seeds in common with the first record: nothing can be told from noise."


class Comparison:
    """Records of one setting each, by name; the first is what the others are compared with.

    Args:
        records: name → record; two or more.

    Attributes:
        first: the name of the record that the others are compared with.
        summaries: name → what the record says.
        arms: those of any of the records.
        same_test: whether all answer the same test images; else their difference would mean nothing.
        differences: (arm, name) → that record minus the first, in points, paired by seed; empty where tests differ.
        beyond: those of the differences that are beyond noise.

    Raises:
        InvalidInput: one of them holds several settings.
        InvalidRecord: one of them is not of a study.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records, self.first = records, next(iter(records))
        self.summaries: dict[str, StudySummary] = {}
        for name, record in records.items():
            study = read_study(record)
            if (many := len(study.settings)) > 1:
                raise InvalidInput(f"{name} holds {many} settings; records side by side hold one each")
            self.summaries[name] = only_summary(study)
        summaries = self.summaries.values()
        # The sweep is left out: it is a picture of one parameter, not fifteen hypotheses.
        arms = (arm for each in summaries for arm in (BASELINE, *compared(each), *each.networks))
        self.arms = tuple(dict.fromkeys(arms))
        tests = {(each.data, each.images.test, each.images.imbalance) for each in summaries}
        self.same_test = len(tests) == 1
        self.differences = self._differences() if self.same_test else {}
        self.beyond = beyond_noise(self.differences)

    def _differences(self) -> dict[tuple[str, str], Interval]:
        (_, base), *others = self.summaries.items()
        differences: dict[tuple[str, str], Interval] = {}
        for arm in self.arms:
            before = base.seeds_of(arm, "accuracy")
            for name, summary in others:
                after = summary.seeds_of(arm, "accuracy")
                if common := [seed for seed in after if seed in before]:
                    new, old = ([100 * values[seed] for seed in common] for values in (after, before))
                    differences[arm, name] = paired(new, old, resolution=100 / base.images.test)
        return differences


def comparison_table(comparison: Comparison) -> Table:
    """One row an arm: its accuracy in each record, and the difference to the first."""
    summaries, differences = comparison.summaries, comparison.differences
    letters = dict(zip(summaries, _letters(len(summaries)), strict=True))

    widths = {name: 1 if name == comparison.first or not differences else 3 for name in summaries}

    def heads(name: str) -> tuple[str, ...]:
        return (f"{letters[name]} accuracy %", f"{letters[name]} − A", "which is")[: widths[name]]

    def cells(arm: str, name: str) -> tuple[str, ...]:
        accuracy = cell(summaries[name].interval(arm, "accuracy", 100), 2)
        difference = cell(differences.get((arm, name)), 2, signed=True)
        return (accuracy, difference, _verdict(comparison, arm, name))[: widths[name]]

    return Table(
        title="records side by side",
        columns=("arm", *(head for name in summaries for head in heads(name))),
        rows=tuple((arm, *(text for name in summaries for text in cells(arm, name))) for arm in comparison.arms),
        notes=(
            *(
                f"{letters[name]}: {name} "
                f"({counted(len(each.seeds), 'seed')}, {each.images.test:,} images of {each.data} to test)"
                for name, each in summaries.items()
            ),
            "Differences are paired by seed, in points, ± 95 %; beyond noise: Holm over all of them."
            if comparison.same_test
            else "The records answer other test images: accuracies stand side by side, and no differences are taken.",
        ),
    )


def comparison_conclusion(comparison: Comparison) -> str:
    """What differs beyond noise, or why nothing is compared."""
    differences, beyond = comparison.differences, comparison.beyond
    if not comparison.same_test:
        tests = dict.fromkeys(f"{each.images.test:,} of {each.data}" for each in comparison.summaries.values())
        return f"No differences are taken: the records answer other test images ({', '.join(tests)})."
    if not (tested := num_tested(differences)):
        return _ONE_SEED
    if not beyond:
        return f"No difference to {comparison.first} beyond noise is shown (Holm, {tested} compared)."
    several = len(comparison.records) > 2
    ranked = sorted(beyond, key=lambda key: -abs(beyond[key].mean))
    texts = [
        f"{arm}{f' of {name}' if several else ''} {cell(beyond[arm, name], 2, signed=True)}" for arm, name in ranked
    ]
    return (
        f"Points of accuracy against {comparison.first}, paired by seed, ± 95 %: {len(beyond)} of {tested} "
        f"beyond noise (Holm): {first_four(texts)}."
    )


def comparison_figures(comparison: Comparison) -> tuple[Figure, ...]:
    """For each record but the first, its differences to that."""
    with extra("report"):
        from truenorm.lab.report.charts.forest import difference_by_record, forest_rows

    figures: list[Figure] = []
    for number, name in enumerate(comparison.records):
        differences, beyond = (
            {arm: difference for (arm, of), difference in every.items() if of == name}
            for every in (comparison.differences, comparison.beyond)
        )
        if rows := forest_rows(differences, beyond):
            figures += difference_by_record(f"{name} − {comparison.first}", f"difference-by-record-{number}", rows)
    return tuple(figures)


def comparison_page(comparison: Comparison) -> str:
    """The page of several records: HTML, complete in itself.

    Raises:
        MissingExtra: what draws is not installed.
    """
    beyond, tested = len(comparison.beyond), num_tested(comparison.differences)
    if not comparison.same_test:
        headline = "Studies side by side; their tests differ, so no differences are taken."
    elif not tested:
        headline = _ONE_SEED
    else:
        headline = f"{beyond or 'None'} of {tested} differences between these studies "
        headline += "is beyond noise." if beyond < 2 else "are beyond noise."
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


def _verdict(comparison: Comparison, arm: str, name: str) -> str:
    difference = comparison.differences.get((arm, name))
    if difference is None:
        return ""
    if difference.p is None:
        return "one seed"
    return "beyond noise" if (arm, name) in comparison.beyond else "within noise"

"""A study class by class, as tables and a sentence."""

from collections.abc import Iterator, Sequence

from truenorm.lab.report.by_class import ByClass, Line, Score, by_class
from truenorm.lab.report.summary import BASELINE, StudySummary, cell, num_tested, signed
from truenorm.lab.report.wording import counted, first_four
from truenorm.metrics.intervals import Interval
from truenorm.show import Table

_ALL, _SOME = 20, 12
"""Up to so many classes are all shown; of more, so many."""

_SCORES: dict[str, Score] = {"sensitivity %": "sensitivity", "specificity %": "specificity", "F %": "f_score"}
_UNDEFINED = "undefined"


def class_tables(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """A table of classes for each setting that has confusion matrices; if none has, one that says so."""
    tables = tuple(table for summary in summaries for table in class_table(summary))
    note = "The record holds no confusion matrices: it was made before truenorm kept them. Run its command again."
    return tables or (Table(title="class by class", columns=("class",), rows=(), notes=(note,)),)


def class_table(summary: StudySummary) -> tuple[Table, ...]:
    """The scores of each class under the baseline, and what other methods change in F; none without matrices."""
    found = by_class(summary)
    if found is None:
        return ()
    beyond = {method: found.beyond_noise(method) for method in found.methods}
    shown = _shown(found)
    rows = [
        (*_scores(line), *(_marked(line.difference(method), number in beyond[method]) for method in found.methods))
        for number, line in enumerate(found.classes)
        if number in shown
    ]
    rows += [
        (*_scores(line), *(_marked(line.difference(method), False) for method in found.methods))
        for line in found.averages
    ]
    label = f", {summary.setting.label}" if summary.setting.label else ""
    methods = ", and what other methods change in F, in points" if found.methods else ""
    notes = (*largest_changes(found), *_notes(summary, found, len(found.classes) - len(shown)))
    if any(_UNDEFINED in row for row in rows):
        notes += (f"{_UNDEFINED}: the score would divide by 0, as sensitivity does for a class without test images.",)
    return (
        Table(
            title=f"class by class{label}: {BASELINE}{methods}",
            columns=("class", "images", *_SCORES, *found.methods),
            rows=tuple(rows),
            notes=notes,
        ),
    )


def largest_changes(found: ByClass) -> tuple[str, ...]:
    """In which classes the first method differs from the baseline, and by how much; none if there is no method."""
    if not found.methods:
        return ()
    method = found.methods[0]
    differences, beyond = found.differences(method), found.beyond_noise(method)
    tested = num_tested(differences)
    ranked = sorted(beyond or differences, key=lambda number: -abs(differences[number].mean))
    texts = [f"{found.classes[number].name} {signed(differences[number])}" for number in ranked]
    largest = f"{signed(differences[ranked[0]])}, class {found.classes[ranked[0]].name}" if ranked else ""
    if not any(difference.mean for difference in differences.values()):
        said = "no class differs in its mean F"
    elif not tested:
        said = f"one seed says nothing about noise; the largest difference of F is {largest}"
    elif beyond:
        said = f"F changes beyond noise in {len(beyond)} of {tested} classes (Holm): {first_four(texts)}"
    else:
        said = f"no change of F beyond noise is shown (Holm, {tested} classes); the largest is {largest}"
    return (f"{method} − {BASELINE}, points, paired by seed, ± 95 %: {said}.",)


def _notes(summary: StudySummary, found: ByClass, hidden: int) -> Iterator[str]:
    if hidden:
        why = "F changes most in those shown" if found.methods else "F is lowest in those shown"
        yield f"{hidden} of {len(found.classes)} classes are not shown: {why}."
    if any(num_tested(found.differences(method)) for method in found.methods):
        yield (
            "Mean ± 95 % interval over seeds; differences are paired by seed. *: beyond noise, Holm over the classes "
            "of a column; averages are not tested."
        )
    if left := found.num_methods - len(found.methods):
        yield f"{counted(left, 'more method')} of the record {'is' if left == 1 else 'are'} not compared here."
    balanced = ", as is the macro one of this balanced test set" if summary.images.balanced else ""
    yield (
        "Macro: plain mean over the classes that have test images; weighted: by their number of images, so that its "
        f"sensitivity is the accuracy{balanced}."
    )


def _shown(found: ByClass) -> set[int]:
    """Numbers of the classes of the table: all, or those that change most, or without methods those of the lowest F."""
    if len(found.classes) <= _ALL:
        return set(range(len(found.classes)))
    differences = [found.differences(method) for method in found.methods]

    def rank(number: int) -> float:
        if found.methods:
            return -max((abs(of[number].mean) for of in differences if number in of), default=0.0)
        score = found.classes[number].interval(BASELINE, "f_score")
        return 100.0 if score is None else score.mean

    return set(sorted(range(len(found.classes)), key=rank)[:_SOME])


def _scores(line: Line) -> tuple[str, ...]:
    values = (cell(line.interval(BASELINE, score), 2) or _UNDEFINED for score in _SCORES.values())
    return line.name, f"{line.support:,}", *values


def _marked(difference: Interval | None, beyond: bool) -> str:
    return cell(difference, 2, signed=True) + (" *" if beyond else "")

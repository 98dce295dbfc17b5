"""A study class by class, as tables and a sentence."""

from collections.abc import Iterator, Sequence

from truenorm.lab.report.by_class import ByClass, Line, Score, by_class
from truenorm.lab.report.summary import BASELINE, StudySummary, cell, num_tested, signed
from truenorm.lab.report.wording import counted, first_four
from truenorm.show import Table

_ALL, _SOME = 20, 12
"""Up to so many classes are all shown; of more, so many."""

_SCORES: dict[str, Score] = {"sensitivity %": "sensitivity", "specificity %": "specificity", "F %": "f_score"}
_COLUMNS = ("class", "images", *_SCORES)
_UNDEFINED = "undefined"


def class_tables(summaries: Sequence[StudySummary]) -> tuple[Table, ...]:
    """A table of classes for each setting that has confusion matrices; if none has, one that says so."""
    tables = tuple(table for summary in summaries for table in class_table(summary))
    note = (
        "The record holds no confusion matrices: it was made before truenorm kept them. Its command, with a new --out "
        "folder, makes one that does."
    )
    return tables or (Table(title="class by class: nothing is recorded", columns=_COLUMNS, rows=(), notes=(note,)),)


def class_table(summary: StudySummary) -> tuple[Table, ...]:
    """The scores of each class under the baseline, and what other methods change in F; none without matrices."""
    found = by_class(summary)
    if found is None:
        return ()
    shown = _shown(found)
    rows = [
        (
            *_scores(line),
            *(
                cell(found.differences[method].get(number), 2, signed=True)
                + (" *" if number in found.beyond[method] else "")
                for method in found.methods
            ),
        )
        for number, line in enumerate(found.classes)
        if number in shown
    ]
    rows += [
        (*_scores(line), *(cell(line.difference(method), 2, signed=True) for method in found.methods))
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
            columns=(*_COLUMNS, *found.methods),
            rows=tuple(rows),
            notes=notes,
        ),
    )


def largest_changes(found: ByClass) -> tuple[str, ...]:
    """In which classes the first method differs from the baseline, and by how much; none if there is no method."""
    if not found.methods:
        return ()
    method = found.methods[0]
    differences, beyond = found.differences[method], found.beyond[method]
    tested = num_tested(differences)
    ranked = sorted(beyond or differences, key=lambda number: -abs(differences[number].mean))
    texts = [f"{found.classes[number].name} ({signed(differences[number])})" for number in ranked]
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
        why = "F changes no more in them" if found.methods else "F is no lower in those of them that have test images"
        yield f"{hidden} of {len(found.classes)} classes are not shown: {why}."
    if any(map(num_tested, found.differences.values())):
        yield (
            "Mean ± 95 % interval over seeds; differences are paired by seed. *: beyond noise, Holm over the classes "
            "of a column; averages are not tested."
        )
    if left := found.num_methods - len(found.methods):
        yield f"{counted(left, 'more method')} of the record {'is' if left == 1 else 'are'} not compared here."
    balanced = "; so is macro sensitivity here, as the test set is balanced" if summary.images.balanced else ""
    yield (
        "Macro: plain mean over the classes that have test images; weighted: by their number of images, so that its "
        f"sensitivity is the accuracy{balanced}."
    )


def _shown(found: ByClass) -> set[int]:
    """Numbers of the classes of the table: all, or those that change most, or without methods those of the lowest F.

    Of many classes those without test images come last.
    """
    if len(found.classes) <= _ALL:
        return set(range(len(found.classes)))

    def rank(number: int) -> tuple[bool, float]:
        line = found.classes[number]
        if found.methods:
            changes = [abs(of[number].mean) for of in found.differences.values() if number in of]
            return not line.support, -max(changes, default=0.0)
        score = line.interval(BASELINE, "f_score")
        return not line.support, 0.0 if score is None else score.mean

    return set(sorted(range(len(found.classes)), key=rank)[:_SOME])


def _scores(line: Line) -> tuple[str, ...]:
    values = (cell(line.interval(BASELINE, score), 2) or _UNDEFINED for score in _SCORES.values())
    return line.name, f"{line.support:,}", *values

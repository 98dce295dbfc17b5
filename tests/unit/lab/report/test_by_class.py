"""Class by class: scores, differences, the table and what it says, against scikit-learn and by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from scipy import stats
from sklearn.metrics import f1_score
from unit.lab.report.synthetic import study
from unit.lab.report.test_tables import printed

from truenorm.errors import InvalidRecord
from truenorm.lab.report.by_class import by_class
from truenorm.lab.report.charts.confusion import confusion_maps, mean_shares
from truenorm.lab.report.class_tables import class_tables
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import only_summary, summaries
from truenorm.metrics.confusion import Confusion
from truenorm.record import ClassCounts, Record

NAMES = ("cat", "dog", "fox")
DIGITS = tuple("0123456789")
HUNDRED = tuple(f"class {number}" for number in range(100))


def summary_of(record):
    return only_summary(read_study(record))


def with_counts(record, arms, **images):
    """The record with matrices: arm → one for each seed, and with more said of its images."""
    matrices = [
        ClassCounts(trial, arm, counts)
        for arm, of_seeds in arms.items()
        for seed, counts in enumerate(of_seeds)
        if (trial := f"{arm if arm in ('bn-bfn', 'gn') else 'bn'}{seed}") in record.trials
    ]
    said = {"images": {"digits": {**record.configuration["images"]["digits"], **images}}}
    return replace(record, class_counts=tuple(matrices), configuration={**record.configuration, **said})


@pytest.fixture
def counted(record):
    """Make a record with matrices, of as many seeds as there are."""

    def make(arms, *, names=NAMES, **options):
        num = {arm: len(of_seeds) for arm, of_seeds in arms.items()}
        return with_counts(
            record({arm: [0.5] * n for arm, n in num.items()}, **options), arms, **({"class_names": list(names)})
        )

    return make


BASE = [((8, 2, 0), (1, 9, 0), (0, 2, 8)), ((7, 3, 0), (0, 10, 0), (1, 1, 8)), ((8, 1, 1), (0, 9, 1), (0, 0, 10))]
OTHER = [((9, 1, 0), (1, 9, 0), (0, 5, 5)), ((8, 2, 0), (0, 10, 0), (1, 4, 5)), ((9, 1, 0), (0, 9, 1), (0, 3, 7))]


def labels_of(counts):
    pairs = [(t, p) for t, row in enumerate(counts) for p, count in enumerate(row) for _ in range(count)]
    return [t for t, _ in pairs], [p for _, p in pairs]


# Values.


def test_a_difference_is_scikit_learns_f_paired_by_seed(counted):
    found = by_class(summary_of(counted({"static-0.1": BASE, "dmbn": OTHER})))
    for number, line in enumerate(found.classes):
        old, new = (
            [100 * f1_score(*labels_of(counts), labels=[number], average=None)[0] for counts in of]
            for of in (BASE, OTHER)
        )
        difference = line.difference("dmbn")
        assert (line.name, line.support) == (NAMES[number], 10)
        assert line.interval("static-0.1", "f_score").mean == pytest.approx(sum(old) / 3, rel=1e-12)
        assert difference.mean == pytest.approx(sum(new) / 3 - sum(old) / 3, abs=1e-9)
        # One of the ten images of the class is the least that the standard deviation is taken to be.
        spread = max(10.0, stats.tstd([b - a for a, b in zip(old, new, strict=True)]))
        assert difference.half_width == pytest.approx(stats.t.ppf(0.975, 2) * spread / 3**0.5, rel=1e-9)
    macro, weighted = found.averages
    for line, average in ((macro, "macro"), (weighted, "weighted")):
        expected = [100 * f1_score(*labels_of(counts), average=average) for counts in OTHER]
        assert line.interval("dmbn", "f_score").mean == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_holm_is_over_the_classes_of_a_method():
    """Alone beyond noise, not among ten."""
    record = study(classes=DIGITS, seeds=5, shifts={"dmbn": {3: -6}, "pooled-0.1": {4: -2}})
    found = by_class(summary_of(record))
    alone = {method: {n for n, d in found.differences[method].items() if d.excludes_zero} for method in found.methods}
    beyond = {method: set(found.beyond[method]) for method in found.methods}
    assert 3 in beyond["dmbn"]
    assert all(beyond[method] <= alone[method] for method in found.methods) and beyond != alone


def test_a_method_that_lacks_a_seed_is_compared_on_the_others(counted):
    found = by_class(summary_of(counted({"static-0.1": BASE, "dmbn": OTHER[:2]})))
    assert found.classes[0].difference("dmbn").n == 2


def test_which_methods_are_compared_is_fixed(counted):
    arms = ("static-0.1", "static-0.5", "cumulative", "recalibrated", "bn-bfn", "pooled-0.1", "dmbn")
    found = by_class(summary_of(counted(dict.fromkeys(arms, BASE))))
    assert (found.methods, found.num_methods) == (("dmbn", "pooled-0.1", "bn-bfn"), 5)
    few = by_class(summary_of(counted(dict.fromkeys(("static-0.1", "cumulative", "gn"), BASE))))
    assert few.methods == ("cumulative", "gn")


ABSENT = [((8, 2, 0), (1, 9, 0), (0, 0, 0)), ((8, 1, 1), (1, 9, 0), (0, 0, 0))]


def test_a_class_without_test_images_is_undefined_and_in_no_family(counted):
    summary = summary_of(counted({"static-0.1": ABSENT, "dmbn": ABSENT[::-1]}))
    found = by_class(summary)
    fox = found.classes[2]
    assert fox.support == 0 and fox.interval("static-0.1", "sensitivity") is None
    assert set(found.differences["dmbn"]) == {0, 1}
    (table,) = class_tables([summary])
    assert table.rows[2] == ("fox", "0", "undefined", "97.50 ± 31.77", "0.00", "")
    assert table.notes[-1] == snapshot(
        "undefined: the score would divide by 0, as sensitivity does for a class without test images."
    )


def test_a_single_class(counted):
    alone = [((9, 1), (0, 0)), ((10, 0), (0, 0))]
    summary = summary_of(counted({"static-0.1": alone, "dmbn": alone}, names=("cat", "dog")))
    (table,) = class_tables([summary])
    assert [row[3] for row in table.rows] == ["undefined", "95.00 ± 63.53", "undefined", "undefined"]


# The table.


def test_the_table_of_classes(counted):
    record = counted({"static-0.1": BASE, "dmbn": OTHER, "cumulative": BASE, "bn-bfn": BASE[:2], "gn": BASE})
    assert printed(class_tables(summaries(read_study(record)))) == snapshot("""\
class by class: static-0.1, and what other methods change in F, in points

 class              images   sensitivity %   specificity %             F %             dmbn          bn-bfn      cumulative
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 cat                    10   76.67 ± 14.34    96.67 ± 7.17   83.63 ± 13.86    +6.02 ± 24.84   +0.00 ± 89.85   +0.00 ± 24.84
 dog                    10   93.33 ± 14.34   85.00 ± 21.51   83.86 ± 14.63    -8.14 ± 24.84   +0.00 ± 89.85   +0.00 ± 24.84
 fox                    10   86.67 ± 28.68   96.67 ± 14.34    89.56 ± 2.90   -19.19 ± 24.84   +0.00 ± 89.85   +0.00 ± 24.84
 macro average          30    85.56 ± 9.56    92.78 ± 4.78    85.68 ± 9.16     -7.10 ± 8.28   +0.00 ± 29.95    +0.00 ± 8.28
 weighted average       30    85.56 ± 9.56    92.78 ± 4.78    85.68 ± 9.16     -7.10 ± 8.28   +0.00 ± 29.95    +0.00 ± 8.28

dmbn − static-0.1, points, paired by seed, ± 95 %: no change of F beyond noise is shown (Holm, 3 classes); the largest is
-19.19 ± 24.84, class fox.
Mean ± 95 % interval over seeds; differences are paired by seed. *: beyond noise, Holm over the classes of a column;
averages are not tested.
1 more method of the record is not compared here.
Macro: plain mean over the classes that have test images; weighted: by their number of images, so that its sensitivity is
the accuracy; so is macro sensitivity here, as the test set is balanced.\
""")


def test_of_100_classes_those_that_change_most():
    record = study(classes=HUNDRED, seeds=5, shifts={"dmbn": {90: -12, 7: -9}, "bn-bfn": {33: 5}})
    (table,) = class_tables(summaries(read_study(record)))
    names = [row[0] for row in table.rows]
    assert len(names) == 14 and names[-2:] == ["macro average", "weighted average"]
    assert {"class 7", "class 33", "class 90"} <= set(names)
    assert names[:-2] == sorted(names[:-2], key=lambda name: int(name.split()[1]))
    assert table.notes[:2] == snapshot(
        (
            "dmbn − static-0.1, points, paired by seed, ± 95 %: F changes beyond noise in 2 of 100 classes (Holm): class 90 (-27.87 ± 4.14), class 7 (-22.55 ± 4.14).",
            "88 of 100 classes are not shown: F changes no more in them.",
        )
    )


def test_of_100_classes_without_another_method_those_of_the_lowest_f():
    record = study(classes=HUNDRED, arms=("static-0.1",), seeds=2, shifts={"static-0.1": {5: -20}})
    (table,) = class_tables(summaries(read_study(record)))
    assert table.columns == ("class", "images", "sensitivity %", "specificity %", "F %")
    assert "class 5" in [row[0] for row in table.rows]
    assert table.notes == snapshot(
        (
            "88 of 100 classes are not shown: F is no lower in those of them that have test images.",
            "Macro: plain mean over the classes that have test images; weighted: by their number of images, so that its sensitivity is the accuracy.",
        )
    )


def test_of_many_classes_those_without_test_images_come_last(counted):
    """20 of 30 classes have no test images, and nothing changes: what is shown are classes that have some."""
    counts = tuple(tuple(int(p == t) if t % 3 == 2 else 0 for p in range(30)) for t in range(30))
    names = [f"class {number}" for number in range(30)]
    (table,) = class_tables([summary_of(counted({"static-0.1": [counts] * 2, "dmbn": [counts] * 2}, names=names))])
    assert sorted(row[1] for row in table.rows[:-2]) == ["0"] * 2 + ["1"] * 10


def test_what_the_sentence_says(counted):
    def said(record):
        return class_tables(summaries(read_study(record)))[0].notes[0]

    clear = {"shifts": {"dmbn": dict(enumerate((-9, 0, -8, 0, -7, 0, -6, 0, -10, 0)))}}
    assert [
        said(study(classes=DIGITS, seeds=5, **clear)),
        said(study(classes=DIGITS, seeds=5)),
        said(study(classes=DIGITS, seeds=1)),
        said(counted({"static-0.1": BASE, "dmbn": BASE})),
        said(counted({"static-0.1": BASE[:1], "dmbn": BASE[:1]})),
    ] == snapshot(
        [
            "dmbn − static-0.1, points, paired by seed, ± 95 %: F changes beyond noise in 6 of 10 classes (Holm): 0 (-27.12 ± 4.14), 8 (-27.01 ± 4.14), 2 (-23.03 ± 4.14), 4 (-20.84 ± 4.14) and 2 more.",
            "dmbn − static-0.1, points, paired by seed, ± 95 %: no change of F beyond noise is shown (Holm, 10 classes); the largest is -2.25 ± 4.14, class 3.",
            "dmbn − static-0.1, points, paired by seed, ± 95 %: one seed says nothing about noise; the largest difference of F is -4.00, class 3.",
            "dmbn − static-0.1, points, paired by seed, ± 95 %: no class differs in its mean F.",
            "dmbn − static-0.1, points, paired by seed, ± 95 %: no class differs in its mean F.",
        ]
    )


def test_a_grid_has_a_table_for_each_setting():
    tables = class_tables(summaries(read_study(study(classes=DIGITS, batch_sizes=(4, 64), seeds=2))))
    assert [table.title for table in tables] == snapshot(
        [
            "class by class, batch 4: static-0.1, and what other methods change in F, in points",
            "class by class, batch 64: static-0.1, and what other methods change in F, in points",
        ]
    )


def test_a_record_of_before_there_were_matrices_says_so(record):
    (table,) = class_tables(summaries(read_study(record({"static-0.1": [0.9, 0.8]}))))
    assert table.rows == ()
    assert table.notes == snapshot(
        (
            "The record holds no confusion matrices: it was made before truenorm kept them. Its command, with a new --out folder, makes one that does.",
        )
    )
    assert confusion_maps(summaries(read_study(record({"static-0.1": [0.9, 0.8]})))) == ()


def test_classes_without_names_have_numbers(counted):
    (table,) = class_tables([summary_of(counted({"static-0.1": BASE}, names=()))])
    assert [row[0] for row in table.rows[:3]] == ["0", "1", "2"]


# The maps.


def views(record):
    return {figure.name: figure.views[0] for figure in confusion_maps(summaries(read_study(record)))}


def test_the_map_has_the_mean_shares_of_each_class(counted):
    found = views(counted({"static-0.1": BASE, "dmbn": OTHER}))
    shares = {(row["truth"], row["predicted"]): row["share"] for row in found["confusion"].rows}
    assert shares == {
        ("cat", "cat"): pytest.approx(100 * 23 / 30, rel=1e-3),
        ("dog", "dog"): pytest.approx(100 * 28 / 30, rel=1e-3),
        ("fox", "fox"): pytest.approx(100 * 26 / 30, rel=1e-3),
        ("cat", "dog"): 20.0,
        ("cat", "fox"): pytest.approx(100 / 30, rel=1e-3),
        ("dog", "cat"): pytest.approx(100 / 30, rel=1e-3),
        ("dog", "fox"): pytest.approx(100 / 30, rel=1e-3),
        ("fox", "cat"): pytest.approx(100 / 30, rel=1e-3),
        ("fox", "dog"): 10.0,
    }
    assert [row["truth"] for row in found["confusion"].rows[:3]] == list(NAMES)  # the axes' order
    changes = {
        (row["truth"], row["predicted"]): (row["change"], row["arm"]) for row in found["confusion-difference"].rows
    }
    assert changes["fox", "dog"] == (30.0, "dmbn") and changes["fox", "fox"] == (-30.0, "static-0.1")
    assert ("dog", "cat") not in changes  # nothing differs there


def test_titles_name_the_largest_error_and_how_many_classes_differ(counted):
    assert [view.title for view in views(counted({"static-0.1": BASE, "dmbn": OTHER})).values()] == snapshot(
        [
            "Confusion matrix of static-0.1; largest error: 20.0 % of cat predicted as dog",
            "Confusion matrix of dmbn − static-0.1: F beyond noise in none of 3 classes",
        ]
    )
    right = [((9, 0), (0, 9))] * 2
    assert [view.title for view in views(counted({"static-0.1": right}, names=("a", "b"))).values()] == snapshot(
        ["Confusion matrix of static-0.1"]
    )


def test_equal_matrices_have_no_second_map(counted):
    assert list(views(counted({"static-0.1": BASE, "dmbn": BASE}))) == ["confusion"]


@pytest.mark.parametrize(
    ("num", "with_numbers", "lines"), [(10, True, 10), (12, True, 12), (13, False, 13), (100, False, 28)]
)
def test_numbers_stand_in_the_cells_of_few_classes(num, with_numbers, lines):
    for view in views(study(classes=HUNDRED[:num], seeds=2)).values():
        assert any("text" in row for row in view.rows) is with_numbers
        assert view.lines == lines


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=4, max_size=4), min_size=1, max_size=3
    )
)
def test_rows_of_shares_add_up_to_100(matrices):
    confusions = [
        Confusion(tuple(tuple(count + (t == p == 0) for p, count in enumerate(row)) for t, row in enumerate(counts)))
        for counts in matrices
    ]
    shares = mean_shares(confusions)
    present = {true for true in range(4) if all(any(one.counts[true]) for one in confusions)}
    assert {true for true, _ in shares} == present
    for true in present:
        assert sum(shares[true, predicted] for predicted in range(4)) == pytest.approx(100)


# What is damaged.


def refused(record):
    with pytest.raises(InvalidRecord) as caught:
        summary_of(record)
    return str(caught.value)


def test_matrices_that_cannot_be(counted):
    good = counted({"static-0.1": BASE})
    assert [
        refused(with_counts(good, {"static-0.1": [counts]}))
        for counts in (((1, 2), (3,)), ((1, -1), (0, 1)), ((0, 0), (0, 0)), ())
    ] == snapshot(
        [
            "the confusion matrix of arm 'static-0.1' in trial 'bn0' is damaged: row 1 has 1 counts; expected 2, one of each class",
            "the confusion matrix of arm 'static-0.1' in trial 'bn0' is damaged: a count of row 0 is -1; expected 0 or more",
            "the confusion matrix of arm 'static-0.1' in trial 'bn0' is damaged: there are no samples to score; expected one or more",
            "the confusion matrix of arm 'static-0.1' in trial 'bn0' is damaged: there are no samples to score; expected one or more",
        ]
    )
    assert refused(with_counts(good, {"static-0.1": BASE[:1], "dmbn": [((1, 0), (0, 1))]})) == snapshot(
        "the record has confusion matrices of 2 and of 3 classes"
    )
    assert refused(counted({"static-0.1": BASE}, names=("a", "b"))) == snapshot(
        "the record names 2 classes of 'digits', and its confusion matrices have 3"
    )
    assert refused(counted({"static-0.1": BASE}, names=("a", 2, "c"))) == snapshot(
        "the record's header is damaged: item 1 of class_names of images of 'digits' is 2"
    )
    unknown = replace(good, class_counts=(ClassCounts("nowhere", "static-0.1", BASE[0]),))
    assert refused(unknown) == snapshot("the record has rows of a trial 'nowhere' that its header does not describe")


@pytest.mark.parametrize("odd", [None, 3, "a", {}, [1], [None], {"a": 1}, True])
def test_names_that_are_no_list_of_names(counted, odd):
    record = counted({"static-0.1": BASE})
    images = record.configuration["images"]["digits"] | {"class_names": odd}
    said = refused(replace(record, configuration={**record.configuration, "images": {"digits": images}}))
    assert "class_names of images of 'digits' is" in said


def test_matrices_go_through_the_file(counted):
    record = counted({"static-0.1": BASE, "dmbn": OTHER})
    assert class_tables([summary_of(Record.loads(record.dumps()))]) == class_tables([summary_of(record)])

"""Records side by side."""

import io
from dataclasses import replace

import pytest
from inline_snapshot import snapshot
from rich.console import Console
from unit.lab.report.synthetic import study

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.lab.report.comparison import (
    Comparison,
    comparison_conclusion,
    comparison_figures,
    comparison_page,
    comparison_table,
)
from truenorm.lab.report.summary import beyond_noise
from truenorm.record import Record

ARMS = ("static-0.1", "dmbn", "adaptive", "gn")


def compared(**other):
    one = study(seeds=4, arms=ARMS, gains={"adaptive": 0.01})
    return Comparison({"before": one, "after": study(**{"seeds": 4, "arms": ARMS, **other})})


def printed(comparison):
    console = Console(file=io.StringIO(), width=150)
    console.print(comparison_table(comparison))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_the_table_and_what_it_says():
    comparison = compared(gains={"adaptive": 0.05})
    assert printed(comparison) == snapshot("""\
records side by side

 arm          A accuracy %   B accuracy %          B − A       which is
 ──────────────────────────────────────────────────────────────────────
 static-0.1   92.49 ± 0.58   92.49 ± 0.58   +0.00 ± 0.44   within noise
 dmbn         92.60 ± 0.25   92.60 ± 0.25   +0.00 ± 0.44   within noise
 adaptive     93.78 ± 0.69   97.78 ± 0.69   +4.00 ± 0.44   beyond noise
 gn           92.70 ± 0.25   92.70 ± 0.25   +0.00 ± 0.44   within noise

A: before (4 seeds, 359 images of digits to test)
B: after (4 seeds, 359 images of digits to test)
Differences are paired by seed, in points, ± 95 %; beyond noise: Holm
over all of them.\
""")
    assert comparison_conclusion(comparison) == snapshot(
        "Points of accuracy against before, paired by seed, ± 95 %: 1 of 4 beyond noise (Holm): adaptive +4.00 ± 0.44."
    )


def test_a_record_against_itself():
    comparison = compared(gains={"adaptive": 0.01})
    assert {found.mean for found in comparison.differences.values()} == {0.0}
    assert comparison_conclusion(comparison) == snapshot(
        "No difference to before beyond noise is shown (Holm, 4 compared)."
    )


def test_differences_are_paired_by_the_seeds_that_both_have():
    comparison = compared(seeds=3, gains={"adaptive": 0.05})
    first, second = comparison.summaries.values()
    a, b = (one.seeds_of("adaptive", "accuracy") for one in (second, first))
    found = comparison.differences["adaptive", "after"]
    assert found.n == 3
    assert found.mean == pytest.approx(sum(100 * (a[seed] - b[seed]) for seed in range(3)) / 3)


def test_other_test_images_are_not_subtracted():
    comparison = compared(data=("mnist",))
    assert not comparison.differences and not comparison_figures(comparison)
    assert comparison_conclusion(comparison) == snapshot(
        "No differences are taken: the records answer other test images (359 of digits, 359 of mnist)."
    )
    assert comparison_table(comparison).columns == snapshot(("arm", "A accuracy %", "B accuracy %"))
    assert comparison_table(comparison).notes[-1] == snapshot(
        "The records answer other test images: accuracies stand side by side, and no differences are taken."
    )


def test_an_arm_that_one_record_lacks():
    comparison = compared(arms=("static-0.1", "dmbn"))
    rows = {row[0]: row for row in comparison_table(comparison).rows}
    assert rows["gn"][2:] == ("", "", "") and rows["dmbn"][4] == "within noise"
    assert {arm for arm, _ in comparison.differences} == {"static-0.1", "dmbn"}


def test_the_sweep_is_no_family():
    comparison = compared(arms=(*ARMS, "static-0.5"))
    assert [row[0] for row in comparison_table(comparison).rows] == list(ARMS)


def test_one_seed():
    comparison = compared(seeds=1)
    assert comparison_conclusion(comparison) == snapshot(
        "No arm has two seeds in common with the first record: nothing can be told from noise."
    )
    assert comparison_table(comparison).rows[0][4] == "one seed"
    assert f"<h1>{comparison_conclusion(comparison)}</h1>" in comparison_page(comparison)
    assert "95 %" not in comparison_figures(comparison)[0].text
    assert beyond_noise(comparison.differences) == {}


def test_three_records():
    one = study(seeds=3, arms=ARMS)
    three = Comparison({"a": one, "b": study(seeds=3, arms=ARMS, gains={"dmbn": 0.1}), "c": one})
    assert comparison_table(three).columns == snapshot(
        ("arm", "A accuracy %", "B accuracy %", "B − A", "which is", "C accuracy %", "C − A", "which is")
    )
    assert [figure.name for figure in comparison_figures(three)] == ["difference-by-record-1", "difference-by-record-2"]
    assert comparison_conclusion(three) == snapshot(
        "Points of accuracy against a, paired by seed, ± 95 %: 1 of 8 beyond noise (Holm): dmbn of b +10.00 ± 0.69."
    )


def test_a_grid_has_no_place_here():
    with pytest.raises(InvalidInput) as caught:
        compared(batch_sizes=(4, 64))
    assert str(caught.value) == snapshot("after holds 2 settings; records side by side hold one each")


def test_a_record_of_something_else():
    with pytest.raises(InvalidRecord, match="is it one of truenorm study"):
        Comparison({"a": study(seeds=1), "b": Record(command="truenorm diagnose")})


def test_other_images_of_the_same_set():
    """The same name, and another imbalance: not the same test."""
    one = study(seeds=2, arms=ARMS)
    images = {"digits": one.configuration["images"]["digits"] | {"imbalance": 50.0}}
    other = replace(one, configuration={**one.configuration, "images": images})
    assert not Comparison({"a": one, "b": other}).same_test
    assert Comparison({"a": one, "b": one}).same_test

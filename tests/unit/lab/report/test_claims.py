"""Claims as tables and pages: what is planted in a record is what is said of it."""

import json
import math
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic_claims import ALONG, BELOW, CATALOGUE, claim, over_none, record
from unit.lab.report.test_page import NASTY, Read, unpacked

from truenorm.errors import InvalidRecord, MissingExtra
from truenorm.lab.claims.claim import Column, Part, Picture
from truenorm.lab.claims.measured import with_catalogue
from truenorm.lab.report import claims_page
from truenorm.lab.report.claims import words
from truenorm.lab.report.claims.page import claims_figures
from truenorm.lab.report.claims.record import read_claims
from truenorm.lab.report.claims.table import ClaimsTable, claims_conclusion, listing
from truenorm.lab.report.look import Look, claim_looks
from truenorm.metrics.intervals import Interval
from truenorm.record import Measurement, Record
from truenorm.show import plain

CLEAR = {("along", 16): 0.0, ("along", 256): 0.1, "below": 1.3, "alone": -0.05}
"""Gains by which the first claim differs between comparisons, the second holds and the third does not."""


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    """The synthetic claims instead of the real ones; call it for others."""

    def put(*claims):
        monkeypatch.setattr("truenorm.lab.claims.catalogue.CLAIMS", claims)

    put(*CATALOGUE)
    return put


def rulings(found):
    return {verdict.claim.name: verdict.ruling for verdict in read_claims(found).verdicts}


def table(found, width=100):
    return plain(ClaimsTable(claims=read_claims(found)), width)


def texts(found):
    return " ".join(" ".join(Read(claims_page(read_claims(found))).texts).split())


def views(found):
    """Chart → its rows."""
    packed = json.loads(unpacked(Read(claims_page(read_claims(found))).scripts["views"]))
    return {name: view["chart"]["datasets"]["rows"] for name, (view,) in packed.items()}


# The table.


def test_the_table():
    assert table(record(gains=CLEAR)) == snapshot("""\
what is said about batch norm

 #   claim, and its comparisons   verdict         effect (95 %)               margin
 ───────────────────────────────────────────────────────────────────────────────────
 2   Batch norm does thing 2      does not hold
       batch 16 *                 does not hold   +0.10 ± 0.11 points       2 points
       batch 256                  holds           +10.10 ± 0.21 points      2 points

 5   Batch norm does thing 5      holds
       steps *                    holds           ×3.671 (3.665 to 3.678)      ×1.25
       loss                       holds           +1.2994 ± 0.0018              0.25

 7   Batch norm does thing 7      does not hold
       everywhere *               does not hold   -5.10 ± 0.27 points        1 point

digits: 1,199 images to train on, 359 to test; 5 seeds; effects are means over seeds,
with 95 % intervals.
0, or ×1, is no effect; above is as the claim has it. Margin: the smallest that is
worth its words.
A claim's verdict is that of its primary comparison (*), chosen by its words alone.
Verdicts: two t tests of each comparison, 5 % for all 5 of the catalogue together
(Holm); an interval is of its comparison alone.\
""")


def test_the_verdicts_are_those_that_were_planted():
    found = record(gains=CLEAR)
    assert rulings(found) == {"along": "does not hold", "below": "holds", "alone": "does not hold"}
    assert claims_conclusion(read_claims(found)) == snapshot(
        "Of 3 things said about batch norm, 1 holds and 2 do not. 1 of them is ruled otherwise in other comparisons."
    )


@pytest.mark.parametrize("width", [80, 100, 120, 150])
def test_nothing_of_it_is_cut_at_any_width(catalogue, width):
    long = "Batch norm does something that takes rather many words to be said in a title"
    catalogue(replace(ALONG, title=long), *CATALOGUE[1:])
    lines = table(record(gains=CLEAR, notes=("along: " + "a note " * 40,)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    assert [line for line in lines if "×3.6" in line and line.split()[0] == "steps"]
    whole = " ".join(" ".join(lines).split())
    assert all(word in whole for word in long.split())


def test_another_number_is_another_verdict_and_another_table_and_page():
    """Planted: batch norm gains as much at batch 16 as at 256."""
    one, other = record(gains=CLEAR), record(gains=CLEAR | {("along", 16): 0.1})
    assert (rulings(one)["along"], rulings(other)["along"]) == ("does not hold", "holds")
    assert table(one) != table(other) and claims_page(read_claims(one)) != claims_page(read_claims(other))
    assert "Of 3 things said about batch norm, 2 hold and 1 does not." in texts(other)


def test_one_claim_alone_is_said_by_its_name(catalogue):
    catalogue(ALONG)
    found = record(gains=CLEAR, claims=(ALONG,))
    assert claims_conclusion(read_claims(found)) == snapshot(
        "“Batch norm does thing 2”: does not hold. Ruled otherwise in other comparisons: holds for batch 256."
    )
    read = Read(claims_page(read_claims(found)))
    assert "At a glance" not in texts(found) and read.opened.count("section") == 3


def test_seeds_that_are_missing(catalogue):
    """A part whose seeds are too few says nothing; one without any has a dash."""
    found = record(gains=CLEAR, diverged=[("none", 2), ("none", 3), ("none", 4)])
    assert rulings(found)["along"] == "cannot tell"
    assert "32 of" not in table(found) and "24 of 120 trials gave no finite numbers" in " ".join(table(found).split())
    none = record(gains=CLEAR, diverged=[("none", seed) for seed in range(5)])
    (line,) = (line for line in table(none).splitlines() if "batch 16" in line)
    assert line.split() == snapshot(["batch", "16", "*", "cannot", "tell", "–", "2", "points"])
    assert "nothing measured" in texts(none)


def test_what_was_not_finished_is_said():
    some = record(gains=CLEAR, complete=False)
    some = replace(some, trials={key: trial for key, trial in some.trials.items() if trial["claim"] != "alone"})
    some = replace(some, rows=tuple(row for row in some.rows if row.trial in some.trials))
    (line,) = read_claims(some).lacking.splitlines()
    assert line == snapshot(
        "The measuring was not finished: there are fewer trials than asked for, and none yet of alone."
    )
    assert line in texts(some) and line in " ".join(table(some, 150).split())


def test_the_list():
    assert [row[:2] for row in listing(CATALOGUE).rows] == [("2", "along"), ("5", "below"), ("7", "alone")]


# Words.


@pytest.mark.parametrize(
    ("interval", "unit", "said"),
    [
        (Interval(0.032, 0.011, 5), "points", "+3.2 ± 1.1 points"),
        (Interval(-0.0321, 0.0004, 5), "points", "-3.21 ± 0.04 points"),
        (Interval(0.5, 0.0, 5), "points", "+50.0 ± 0.0 points"),
        (Interval(0.032, None, 1), "points", "+3.2 points"),
        (Interval(math.log(1.8), math.log(1.2), 5), "factor", "×1.8 (1.5 to 2.2)"),
        (Interval(math.log(120), math.log(1.2), 5), "factor", "×120 (100 to 144)"),
        (Interval(math.log(0.05), math.log(1.2), 5), "factor", "×0.050 (0.042 to 0.060)"),
        (Interval(800.0, 1.0, 5), "factor", "×10^347.4 (10^347.0 to 10^347.9)"),
        (Interval(0.0, None, 1), "factor", "×1.0"),
        (Interval(12.3456, 0.123, 5), "plain", "+12.35 ± 0.12"),
        (Interval(1e26, 2e25, 5), "plain", "+1e+26 ± 2e+25"),
        (Interval(0.0, 0.0, 5), "plain", "+0 ± 0"),
        (None, "points", "–"),
    ],
)
def test_an_effect_is_said_in_its_unit(interval, unit, said):
    assert words.effect(interval, unit) == said


@pytest.mark.parametrize(
    ("margin", "unit", "said"),
    [(math.log(2), "factor", "×2"), (math.log(1.1), "factor", "×1.10"), (0.05, "points", "5 points"),
     (0.01, "points", "1 point"), (0.25, "plain", "0.25")],
)  # fmt: skip
def test_a_margin_is_said_in_its_unit(margin, unit, said):
    part = Part(name="", says="", effect=lambda evidence: {}, margin=margin, unit=unit)
    assert words.margin(part) == said


@pytest.mark.parametrize("number", range(1, 4))
def test_counts_are_sentences(number):
    for found in (["holds"], ["does not hold"], ["cannot tell"], ["holds", "does not hold"]):
        said = words.counts(found * number)
        assert said.endswith(".") and said[0].isupper() and "  " not in said
        assert f"{len(found) * number} thing" in said and ("things" in said) == (len(found) * number > 1)
    mixed = ["holds"] * 4 + ["does not hold"] * 3 + ["cannot tell"] * 5
    assert words.counts(mixed) == snapshot(
        "Of 12 things said about batch norm, 4 hold, 3 do not, and of 5 nothing can be told."
    )
    assert words.counts(["does not hold", "cannot tell"]) == snapshot(
        "Of 2 things said about batch norm, 1 does not hold, and of 1 nothing can be told."
    )


# The page.


def test_the_page_has_a_card_for_each_claim_and_links_to_it():
    read = Read(claims_page(read_claims(record(gains=CLEAR))))
    names = {value for name, value in read.attributes if name == "id" and value.startswith("claim-")}
    links = [value for name, value in read.attributes if name == "href"]
    assert links == ["#claim-along", "#claim-below", "#claim-alone"] and {link[1:] for link in links} == names
    assert not {"link", "img", "iframe", "object"} & set(read.opened)


def test_every_tag_of_it_is_closed():
    read = Read(claims_page(read_claims(record(gains=CLEAR))))
    alone = {"meta", "!doctype", "line", "path", "circle"}
    assert sorted(tag for tag in read.opened if tag not in alone) == sorted(t for t in read.closed if t not in alone)


def test_a_card_says_everything_that_the_claim_does():
    said = texts(record(gains=CLEAR))
    for one in CATALOGUE:
        parts = [part.says for part in one.parts]
        for sentence in (
            one.title,
            one.sentence,
            one.plainly,
            one.hypothesis,
            one.control,
            one.measure,
            one.why_primary,
            *parts,
        ):
            assert sentence in said
        assert all(source in said for source in one.sources) and one.literature in said
    assert "truenorm claims below --data digits --limit 100 --seeds 5" in said
    assert "needed: ×1.25" in said and "batch norm, 32 at a time" in said


def test_the_line_that_makes_a_card_again_has_what_the_record_was_told():
    found = record()
    told = dict(found.configuration) | {"quick": True, "data": "my data", "seeds": None, "data_root": "a b"}
    said = texts(replace(found, configuration=told))
    assert "truenorm claims along --data 'my data' --data-root 'a b' --limit 100 --quick" in said


def test_a_card_of_another_program_has_the_line_that_made_the_record():
    said = texts(replace(record(), command="python experiments/hunt.py --out results/hunt"))
    assert "python experiments/hunt.py --out results/hunt" in said and "truenorm claims along" not in said


def test_a_verdict_has_a_word_and_a_symbol_beside_its_colour():
    read = Read(claims_page(read_claims(record(gains=CLEAR))))
    badges = [value for name, value in read.attributes if name == "class" and value.startswith("badge")]
    assert set(badges) == {"badge yes", "badge no", "badge open"}
    icons = [value for name, value in read.attributes if name == "class" and value == "icon"]
    assert len(icons) == len(badges)
    shown = [text.strip() for text in read.texts]
    assert sum(text in ("holds", "does not hold", "cannot tell") for text in shown) >= len(badges)


def test_a_bar_lies_where_its_numbers_are():
    """The dashed line of a margin of 2 points is a fifth of the way from no effect to an effect of 10."""
    from truenorm.lab.report.claims.page import _findings

    verdict = read_claims(record(gains=CLEAR, noise=1e-5)).verdicts[0]
    none, clear = _findings(verdict, ()).bars
    assert clear.zero < clear.mark < clear.low <= clear.mean <= clear.high <= 100
    assert (clear.mark - clear.zero) / (clear.mean - clear.zero) == pytest.approx(0.2, rel=0.01)
    assert none.mean == pytest.approx(none.zero, abs=0.1)


def test_an_endless_interval_leaves_the_others_room():
    from truenorm.lab.report.claims.page import _findings

    verdict = read_claims(record(gains=CLEAR, noise=1e-4)).verdicts[0]
    wild = replace(verdict.findings[0], effect=Interval(0.0, 1e9, 3))
    first, second = _findings(replace(verdict, findings=(wild, verdict.findings[1])), ()).bars
    assert (first.low, first.high) != (None, None) and second.mean - second.zero > 15


def test_nasty_names_come_out_as_text(catalogue):
    arms = {"none": NASTY, "bn": NASTY, NASTY: NASTY}
    picture = Picture(metric="accuracy", y=NASTY, text=NASTY, x="data", x_title=NASTY, unit="points")
    part = Part(name=NASTY, says=NASTY, effect=over_none("accuracy"), margin=0.1, unit="points")
    said = dict.fromkeys(("title", "sentence", "plainly", "hypothesis", "control", "measure", "literature"), NASTY)
    columns = (Column(metric="accuracy", heading=NASTY),)
    nasty = claim(
        3, "n", (part,), picture, arms=arms, columns=columns, sources=(NASTY,), literature_verdict=NASTY, **said
    )
    catalogue(nasty, BELOW)
    found = record(claims=(nasty, BELOW), notes=(NASTY, f"n: {NASTY}"))
    read = Read(claims_page(read_claims(found)))
    plain_names = claim(3, "n", (replace(part, name="a", says="a"),), replace(picture, y="a", text="a", x_title="a"))
    catalogue(plain_names, BELOW)
    plainly = Read(claims_page(read_claims(record(claims=(plain_names, BELOW), notes=("a", "n: a")))))
    assert read.opened == plainly.opened
    assert sum(text.count(NASTY) for text in read.texts) >= 20 and "49" not in "".join(read.texts)
    assert "<script>" in table(found, 150)


def test_equal_records_give_equal_pages():
    assert claims_page(read_claims(record(gains=CLEAR))) == claims_page(
        read_claims(Record.loads(record(gains=CLEAR).dumps()))
    )


# Charts.


def test_a_chart_has_a_row_for_each_arm_and_place_with_its_mean():
    found = record(gains=CLEAR)
    drawn = views(found)
    assert list(drawn) == ["along", "along-2", "below", "alone"]
    assert [row["arm"] for row in drawn["along"][:3]] == ["none", "bn", "ghost-32"]
    (row,) = (row for row in drawn["along-2"] if row["arm"] == "bn" and row["x"] == 0.1)
    values = [
        100 * row.value
        for row in found.rows
        if row.metric == "accuracy"
        and row.arm == "bn"
        and found.trials[row.trial]["where"] == {"batch_size": 256, "rate": 0.1}
    ]
    assert row["mean"] == pytest.approx(sum(values) / 5, rel=1e-4) and row["seeds"] == 5
    assert row["low"] < row["mean"] < row["high"]


def test_this_comparison_sees_another_number():
    """Planted: one accuracy one point higher."""
    found = record(gains=CLEAR)
    (first, *rest) = found.rows
    assert first.metric == "accuracy"
    moved = replace(found, rows=(replace(first, value=first.value + 0.01), *rest))
    assert views(moved) != views(found)


def test_what_is_far_out_does_not_take_the_scale():
    found = record(gains=CLEAR, far=("ghost-32",))
    rows = {row["arm"]: row for row in views(found)["below"]}
    assert rows["ghost-32"]["far"] == "yes" and rows["bn"]["far"] == "no"
    assert rows["bn"]["mean"] == pytest.approx(2.3, abs=0.1)
    assert 2.3 < rows["ghost-32"]["mean"] < 4
    assert "1 point lies far beyond the chart's edge (as far as 1e26)" in texts(found)
    assert "beyond the chart" not in texts(record(gains=CLEAR))


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(("unit", "values"), [("plain", (-1.0, 0.0, 5.0)), ("factor", (0.0, 3.0, 900.0)), ("plain", (0.0, 0.0, 0.0))])  # fmt: skip
def test_charts_of_odd_numbers_are_finite(catalogue, log_y, unit, values):
    one = claim(1, "odd", BELOW.parts, Picture(metric="loss", y="y", text="", unit=unit, log_y=log_y))
    catalogue(one)
    found = record(claims=(one,))
    arms = dict(zip(("none", "bn", "ghost-32"), values, strict=True))
    rows = tuple(replace(row, value=arms[row.arm]) if row.metric == "loss" else row for row in found.rows)
    for drawn in views(replace(found, rows=rows)).values() if any(values) or not log_y else ():
        for row in drawn:
            assert all(math.isfinite(row[key]) for key in ("low", "mean", "high"))


def test_more_places_than_the_axis_tells_apart_are_series_of_their_own(catalogue):
    one = claim(1, "alone", CATALOGUE[2].parts, replace(CATALOGUE[2].picture, x=None))
    catalogue(one)
    drawn = views(record(claims=(replace(one, picture=CATALOGUE[2].picture),)))["alone"]
    assert [row["series"] for row in drawn][:2] == ["none, data drawings", "bn, data drawings"]


def test_a_chart_alone_has_a_legend_and_none_on_the_page():
    found = record(gains=CLEAR)
    assert "legend" not in json.dumps(
        json.loads(Read(claims_page(read_claims(found))).scripts["specs"])["along"]["config"]["axis"]
    )
    for one in claims_figures(read_claims(found)):
        drawing = ElementTree.fromstring(one.to_svg(one.views[0]))
        shown = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
        assert {"none", "bn", "ghost-32"} <= shown


def test_a_claim_without_numbers_for_its_chart_has_none(catalogue):
    one = replace(BELOW, picture=replace(BELOW.picture, metric="what was never measured"))
    catalogue(one)
    assert "figure" not in Read(claims_page(read_claims(record(claims=(one,))))).opened


def test_arms_of_any_name_look_different():
    arms = ("none", "bn", "ln", "gn", "in", "bn-shared", "ghost-32", "adapted", "skipinit", "x", "y", "z")
    looks = claim_looks(arms)
    assert [arm for arm, look in looks.items() if look.colour == "var(--accent)"] == ["bn"]
    assert looks["bn"] == Look("accent", "circle") and len(set(looks.values())) == len(arms)


def test_the_table_of_numbers_has_the_rate_that_was_chosen():
    read = Read(claims_page(read_claims(record(gains=CLEAR))))
    assert read.texts.count("learning rate") == 1  # of `below`: those of `along` are its places
    assert "0.25" in read.texts


# What cannot be shown.


def test_a_claim_that_is_no_longer_there():
    found = record()
    for odd in (
        replace(found, configuration=dict(found.configuration) | {"claims": ["gone"]}),
        replace(found, trials={**found.trials, "x": {"claim": "gone", "arm": "bn", "seed": 0, "where": {}}}),
    ):
        with pytest.raises(InvalidRecord) as caught:
            read_claims(odd)
        assert str(caught.value) == snapshot(
            "the record holds the claim 'gone', which this truenorm does not know; show it with the version that made it (0.1.0)"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"configuration": {}},
        {"configuration": {"claims": "along"}},
        {"configuration": {"claims": ["along"], "images": []}},
        {"configuration": {"claims": ["along"], "images": {"name": "digits", "train": "many", "test": 3}}},
        {"trials": {"x": {"claim": "along", "arm": "bn", "seed": "0", "where": {}}}},
        {"trials": {"x": {"claim": "along", "arm": "bn", "seed": True, "where": {}}}},
        {"trials": {"x": {"arm": "bn", "seed": 0, "where": {}}}},
        {"trials": {"x": {"claim": "along", "arm": "bn", "seed": 0, "where": []}}},
        {"trials": {}, "rows": ()},
    ],
)
def test_a_damaged_record_is_one_sentence(change):
    with pytest.raises(InvalidRecord) as caught:
        read_claims(replace(record(), **change))
    assert "\n" not in str(caught.value) and str(caught.value)


def test_an_effect_that_cannot_be_taken_is_one_sentence(catalogue):
    def broken(evidence):
        return {0: evidence.places("bn")[0]["no such place"]}

    catalogue(replace(ALONG, parts=(replace(ALONG.parts[0], effect=broken),)))
    with pytest.raises(InvalidRecord, match="of another version of truenorm, or damaged"):
        read_claims(record(claims=(ALONG,)))


def test_text_and_effects_are_read_from_the_record(catalogue):
    before, found = record(gains=CLEAR), with_catalogue(record(gains=CLEAR), CATALOGUE)
    whole = Record.loads(found.dumps())
    catalogue()  # this version knows none of the claims
    for kept in (found, whole):
        assert table(kept) == table(found) and claims_page(read_claims(kept)) == claims_page(read_claims(found))
    catalogue(*CATALOGUE)
    assert table(before) == table(found) and claims_page(read_claims(before)) == claims_page(read_claims(found))


def test_a_record_of_before_primaries_is_judged_by_those_of_now_and_says_so(catalogue):
    found = Record.loads(with_catalogue(record(gains=CLEAR), CATALOGUE).dumps())
    for held in found.configuration["catalogue"]:
        del held["text"]["primary"], held["text"]["why_primary"]
        held["text"]["title"] = "Batch norm did something"
    catalogue(replace(ALONG, primary="batch 256"), *CATALOGUE[1:])
    assert rulings(found) == {"along": "holds", "below": "holds", "alone": "does not hold"}
    for shown in (" ".join(table(found, 150).split()), texts(found)):
        assert "made before claims had a primary comparison" in shown
        assert ALONG.title in shown and "did something" not in shown
    assert "made before" not in table(record(gains=CLEAR))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), {}, "catalogue is {}"),
        ((0, "text", "title"), 3, "title of text of item 0 of catalogue is 3"),
        ((0, "text", "sources"), [None], "item 0 of sources of text of item 0 of catalogue is None"),
        ((1, "text", "parts", 0, "unit"), "miles", "unit of item 0 of parts of text of item 1 of catalogue is 'miles'"),
        ((1, "text", "parts", 0, "margin"), "x", "margin of item 0 of parts of text of item 1 of catalogue is 'x'"),
        (
            (1, "text", "parts", 0, "resolution"),
            None,
            "resolution of item 0 of parts of text of item 1 of catalogue is None",
        ),
        ((0, "text", "picture"), None, "picture of text of item 0 of catalogue is None"),
        ((0, "effects", 0), {"a": 1.0}, "item 0 of effects of item 0 of catalogue is 'a'"),
        ((0, "effects", 0), {"1": "a"}, "'1' of item 0 of effects of item 0 of catalogue is 'a'"),
        ((0, "effects"), [], "along has effects of other comparisons"),
        ((0, "text", "primary"), "batch 1", "the primary of along is not there"),
    ],
)
def test_damaged_text_is_named_with_its_place(path, value, said):
    found = Record.loads(with_catalogue(record(), CATALOGUE).dumps())
    place = found.configuration
    for key in ("catalogue", *path)[: len(path)]:
        place = place[key]
    place["catalogue" if not path else path[-1]] = value
    with pytest.raises(InvalidRecord) as caught:
        read_claims(found)
    assert str(caught.value) == f"the record's header is damaged: {said}"


def test_an_effect_that_cannot_be_kept_leaves_the_record_as_it_is():
    def endless(evidence):
        return {0: math.inf}

    def broken(evidence):
        raise KeyError("no such place")

    for effect in (endless, broken):
        claims = [replace(ALONG, parts=(replace(ALONG.parts[0], effect=effect),))]
        assert with_catalogue(record(), claims) == record()


def test_rows_of_layers_and_of_unknown_trials_are_left_alone():
    found = record(gains=CLEAR)
    odd = (
        Measurement("nowhere", "bn", None, "accuracy", 0.1),
        Measurement(found.rows[0].trial, "bn", "l", "accuracy", 0),
    )
    assert views(replace(found, rows=(*found.rows, odd[0]))) == views(found)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtra):
        claims_page(read_claims(record()))
    assert table(record())

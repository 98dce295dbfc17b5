"""Charts hold what the record holds, and nothing where it holds nothing."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic import ARMS, MOMENTA, study

from truenorm.lab.report.charts.diagnosis import error_by_layer
from truenorm.lab.report.charts.forest import contrast_by_setting, difference_by_arm, forest_rows
from truenorm.lab.report.charts.score_by_momentum import score_by_momentum
from truenorm.lab.report.charts.shift_by_layer import shift_by_layer
from truenorm.lab.report.charts.shift_by_momentum import shift_by_momentum
from truenorm.lab.report.charts.training import during_training
from truenorm.lab.report.figure import write_svgs
from truenorm.lab.report.look import COLOURS, in_light, study_looks
from truenorm.lab.report.study import study_sections
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries
from truenorm.metrics.intervals import Interval
from truenorm.record import Measurement, Record

SWEEP = tuple(f"static-{momentum:g}" for momentum in MOMENTA)


def drawn(chart, record):
    """The rows of its only figure, of its only setting."""
    (figure,) = chart(summaries(read_study(record)))
    (view,) = figure.views
    return view.rows


def figures(record):
    return [one for section in study_sections(summaries(read_study(record))) for one in section.figures]


# What is drawn.


def test_the_map_has_a_cell_for_each_layer_and_momentum_also_of_the_sweep_that_no_table_shows():
    record = study(num_layers=4)
    (figure,) = shift_by_momentum(summaries(read_study(record)))
    rows = figure.views[0].rows
    assert len(rows) == 4 * len(MOMENTA) and figure.views[0].lines == 4
    assert [row["layer"] for row in rows[:: len(MOMENTA)]] == ["norm1", "norm2", "norm3", "norm4"]
    assert [row["momentum"] for row in rows[: len(MOMENTA)]] == [f"{momentum:g}" for momentum in MOMENTA]
    values = [
        row.value for row in record.rows if (row.arm, row.layer, row.metric) == ("static-0.5", "norm2", "shift.joint")
    ]
    (cell,) = (row for row in rows if (row["layer"], row["momentum"]) == ("norm2", "0.5"))
    assert cell["shift"] == pytest.approx(sum(values) / len(values), rel=5e-3)


def test_the_map_marks_what_dmbn_took_in_each_seed():
    record = study(num_layers=2, seeds=5)
    rows = drawn(shift_by_momentum, record)
    taken = [row.value for row in record.rows if (row.arm, row.layer, row.metric) == ("dmbn", "norm1", "momentum")]
    marked = {float(row["momentum"]): row["chosen"] for row in rows if row["layer"] == "norm1" and row["chosen"]}
    assert marked == {momentum: taken.count(momentum) for momentum in taken}
    assert sum(marked.values()) == 5


def test_shift_by_layer_has_each_arm_against_each_reference_in_forward_order():
    rows = drawn(shift_by_layer, study(num_layers=3))
    assert {row["reference"] for row in rows} == {"joint", "sequential", "arriving"}
    assert {row["arm"] for row in rows} == {"static-0.1", *ARMS, "bn-bfn", "noise floor"}
    assert list(dict.fromkeys(row["layer"] for row in rows)) == ["norm1", "norm2", "norm3"]


def test_what_is_zero_by_construction_is_not_drawn_on_a_logarithmic_axis():
    record = study(num_layers=2)
    for row in record.rows:
        if (row.arm, row.metric) == ("recalibrated", "shift.joint"):
            object.__setattr__(row, "value", 1e-9)
    joint = {row["arm"] for row in drawn(shift_by_layer, record) if row["reference"] == "joint"}
    assert "recalibrated" not in joint and "adaptive" in joint


def test_accuracy_by_momentum_has_the_sweep_and_the_levels():
    figure, nll = score_by_momentum(summaries(read_study(study(arms=(*SWEEP, *ARMS)))))
    assert (figure.name, nll.name) == ("accuracy-by-momentum", "nll-by-momentum")
    rows = figure.views[0].rows
    assert [row["momentum"] for row in rows if "momentum" in row] == list(MOMENTA)
    assert all(row["low"] < row["value"] < row["high"] for row in rows if "momentum" in row)
    assert [row["arm"] for row in rows if "arm" in row] == snapshot(
        ["dmbn", "pooled-0.1", "last-epoch", "adaptive", "recalibrated", "sequential"]
    )


def test_names_of_levels_do_not_overlap():
    """Six levels that are the same, at the upper edge."""
    figure, _ = score_by_momentum(summaries(read_study(study(arms=(*SWEEP, *ARMS), gains=dict.fromkeys(ARMS, 0.02)))))
    rows = figure.views[0].rows
    low, high = min(row["low"] for row in rows if "low" in row), max(row.get("high", row["value"]) for row in rows)
    places = sorted(row["at"] for row in rows if "at" in row)
    line = (high - low) * 15 / 280
    assert len(places) == 6
    assert all(b - a > 0.99 * line for a, b in pairwise(places))
    assert places[0] >= low and places[-1] <= high + 0.01


def test_the_forest_has_all_arms_but_the_sweep():
    record = study(arms=(*SWEEP, *ARMS, "gn"), gains={"adaptive": 0.05}, seeds=5)
    rows = {row["name"]: row for row in drawn(difference_by_arm, record)}
    assert set(rows) == {*ARMS, "gn"}
    assert rows["adaptive"]["noise"] == "beyond noise"
    assert rows["adaptive"]["low"] < rows["adaptive"]["mean"] < rows["adaptive"]["high"]
    assert rows["dmbn"]["noise"] == "within noise"


def test_contrasts_have_a_line_for_each_setting():
    found = contrast_by_setting(summaries(read_study(study(batch_sizes=(2, 8, 64), gains={"bn-bfn": -0.1}))))
    assert [figure.name for figure in found] == snapshot(
        [
            "contrast-dmbn-static-0.1",
            "contrast-dmbn-recalibrated",
            "contrast-pooled-0.1-static-0.1",
            "contrast-adaptive-recalibrated",
            "contrast-bn-bfn-static-0.1",
            "contrast-bn-bfn-dmbn",
        ]
    )
    assert [row["name"] for row in found[-1].views[0].rows] == ["batch 2", "batch 8", "batch 64"]
    assert {row["noise"] for row in found[-1].views[0].rows} == {"beyond noise"}


def test_training_is_drawn_where_it_was_followed():
    shift, loss = during_training(summaries(read_study(study(epochs=3))))
    assert [(row["epoch"], row["value"]) for row in loss.views[0].rows if row["arm"] == "gn"] == [
        (1, 2.0),
        (2, 1.0),
        (3, 0.6667),
    ]
    assert {row["arm"] for row in shift.views[0].rows} == {"static-0.1", *ARMS, "bn-bfn"}
    assert during_training(summaries(read_study(study()))) == ()


def test_a_record_without_more_than_accuracy_has_one_chart(record):
    assert [figure.name for figure in figures(record({"static-0.1": [0.9, 0.91], "dmbn": [0.9, 0.92]}))] == [
        "difference-by-arm"
    ]
    assert figures(record({"static-0.1": [0.9, 0.91]})) == []


def test_each_setting_has_its_own_numbers():
    (figure,) = shift_by_layer(summaries(read_study(study(batch_sizes=(4, 64)))))
    assert len(figure.views) == 2 and figure.views[0].rows != figure.views[1].rows


# What titles claim.


def titles(record):
    return {figure.name: figure.views[0].title for figure in figures(record)}


def test_titles_say_what_the_data_say():
    assert titles(study(num_layers=8, epochs=2, arms=(*SWEEP, *ARMS, "gn"))) == snapshot(
        {
            "difference-by-arm": "Difference to static-0.1: none of 8 beyond noise",
            "accuracy-by-momentum": "Accuracy by momentum: from 0.001 to 0.9 no difference to 0.1 is shown",
            "nll-by-momentum": "NLL by momentum",
            "shift-by-momentum": "Shift by layer and momentum: dmbn takes from 0.01 to 0.025",
            "shift-by-layer": "Shift by layer: that of static-0.1 grows with depth (arriving)",
            "shift-by-epoch": "Shift over training",
            "loss-by-epoch": "Training loss",
        }
    )


def test_titles_claim_nothing_that_does_not_show():
    record = study(num_layers=4, seeds=1, arms=("static-0.1", "static-0.5", "dmbn"))
    for row in record.rows:
        if row.metric.startswith("shift"):
            object.__setattr__(row, "value", 0.05)
    assert titles(record) == snapshot(
        {
            "difference-by-arm": "Difference to static-0.1",
            "accuracy-by-momentum": "Accuracy by momentum",
            "nll-by-momentum": "NLL by momentum",
            "shift-by-momentum": "Shift by layer and momentum: dmbn takes from 0.01 to 0.025",
            "shift-by-layer": "Shift by layer",
        }
    )


# How it is drawn.


def test_an_arm_has_one_colour_in_every_chart():
    scales = {}
    for figure in figures(study(arms=(*SWEEP, *ARMS, "bn-bfn", "gn"), epochs=2)):
        for domain, colour in re.findall(r'"domain": (\[[^]]*\]), "range": (\["var[^]]*\])', json.dumps(figure.spec)):
            for arm, one in zip(json.loads(domain), json.loads(colour), strict=True):
                scales.setdefault(arm, set()).add(one)
    assert {"dmbn", "gn", "adaptive"} <= set(scales)
    assert all(len(found) == 1 for found in scales.values())


def test_no_two_arms_look_the_same():
    arms = ["static-0.1", "cumulative", "dmbn-switch", "dmbn-online", *ARMS, "bn-bfn", "gn", "noise floor"]
    assert len(set(study_looks(arms).values())) == len(arms)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", [name for name in COLOURS if name not in ("paper", "surface", "line")])
def test_colours_can_be_seen_on_both_backgrounds(name):
    for scheme in (0, 1):
        a, b = sorted((luminance(COLOURS[name][scheme]), luminance(COLOURS["paper"][scheme])))
        assert (b + 0.05) / (a + 0.05) > (4.5 if name in ("ink", "quiet", "accent") else 3)


UNITS = re.compile(r", %|σ|points|nats per image|epochs trained|weight of the new batch")


def encodings(spec):
    """Every x and y of numbers, in any layer."""
    for axis in ("x", "y"):
        found = spec.get("encoding", {}).get(axis, {})
        if found.get("type") == "quantitative" and found.get("field") != "at":
            yield found
    for layer in spec.get("layer", ()):
        yield from encodings(layer)


def test_every_axis_has_a_title_with_its_unit():
    for figure in figures(study(arms=(*SWEEP, *ARMS, "gn"), epochs=2, batch_sizes=(4, 64))):
        for axis in encodings(figure.spec):
            assert UNITS.search(axis["title"]), (figure.name, axis)


def test_specifications_hold_no_data():
    for figure in figures(study()):
        assert figure.spec["width"] == "container"
        assert "datasets" not in figure.spec and '"values": [{' not in json.dumps(figure.spec)


# Files for documents.


def test_svgs_are_written_by_name(tmp_path):
    found = figures(study(num_layers=2, arms=(*SWEEP, *ARMS)))
    written = write_svgs(found, tmp_path / "new")
    assert [path.name for path in written] == snapshot(
        [
            "difference-by-arm.svg",
            "accuracy-by-momentum.svg",
            "nll-by-momentum.svg",
            "shift-by-momentum.svg",
            "shift-by-layer.svg",
        ]
    )
    for path in written:
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text and "NaN" not in text
    assert "norm2" in (tmp_path / "new" / "shift-by-layer.svg").read_text()


def test_svgs_of_a_grid_are_named_by_setting(tmp_path):
    found = shift_by_layer(summaries(read_study(study(batch_sizes=(4, 64), num_layers=1, seeds=1))))
    written = write_svgs(found, tmp_path, ("net.py:make, batch 4", "../64"))
    assert [path.name for path in written] == ["shift-by-layer-net.py-make-batch-4.svg", "shift-by-layer-..-64.svg"]


def test_colours_of_a_page_become_those_of_paper():
    assert in_light({"a": ["var(--ink)", "var(--paper)"]}) == {"a": [COLOURS["ink"][0], COLOURS["paper"][0]]}


# A diagnosis.


def test_a_diagnosis_has_own_and_inherited_error_of_each_layer():
    rows = [
        Measurement("diagnosis", "stored", layer, metric, value, 0.02)
        for layer, values in {"bn2": (1.9, 0.4, 1.5), "bn1": (0.3, 0.01, 0.0)}.items()
        for metric, value in zip(("shift.arriving", "shift.own", "shift.inherited"), values, strict=True)
    ]
    (figure,) = error_by_layer(Record(command="", rows=tuple(rows)))
    (view,) = figure.views
    assert view.title == "Error by layer: 1 of 2 are off by themselves" and view.lines == 2
    assert [(row["layer"], row["what"], row["value"]) for row in view.rows] == snapshot(
        [
            ("bn2", "off by", 1.9),
            ("bn2", "noise floor", 0.02),
            ("bn2", "own", 0.4),
            ("bn2", "inherited", 1.5),
            ("bn1", "off by", 0.3),
            ("bn1", "noise floor", 0.02),
            ("bn1", "own", 0.01),
            ("bn1", "inherited", 0.0),
        ]
    )
    assert error_by_layer(Record(command="")) == ()


def test_a_band_stays_where_a_score_can_be():
    """Two seeds: an interval twelve times as wide as they are apart."""
    arms = (*SWEEP, *ARMS)
    accuracy, nll = score_by_momentum(summaries(read_study(study(arms=arms, seeds=2, gains=dict.fromkeys(arms, 0.07)))))
    for figure, most in ((accuracy, 100), (nll, 1e9)):
        rows = [row for row in figure.views[0].rows if "momentum" in row]
        assert all(0 <= row["low"] <= row["value"] <= row["high"] <= most for row in rows)
    assert any(row["high"] == 100 for row in accuracy.views[0].rows if "high" in row)


def test_one_seed_has_symbols_without_bars():
    rows = drawn(difference_by_arm, study(seeds=1))
    assert all(row["low"] == row["mean"] == row["high"] and row["noise"] == "within noise" for row in rows)


def test_an_interval_ends_where_no_difference_can_be():
    wide = {"dmbn": Interval(-3.0, 400.0, 2)}
    (row,) = forest_rows(wide, {})
    assert (row["low"], row["mean"], row["high"]) == (-100.0, -3.0, 100.0)
    assert row["told"] == "-3.00 ± 400.00"


def test_without_an_interval_none_is_spoken_of():
    arms = (*SWEEP, *ARMS)
    for seeds in (1, 2):
        found = summaries(read_study(study(seeds=seeds, arms=arms, batch_sizes=(4, 64))))
        for one in (*difference_by_arm(found), *contrast_by_setting(found), *score_by_momentum(found)[:1]):
            assert ("95 %" in one.text) == (seeds > 1), one.name


@pytest.mark.parametrize(
    ("epochs", "marks"),
    [(2, [1, 2]), (10, list(range(1, 11))), (11, [1, 3, 5, 7, 9, 11]), (30, list(range(3, 31, 3)))],
)
def test_epochs_are_marked_by_whole_numbers(epochs, marks):
    shift, loss = during_training(summaries(read_study(study(epochs=epochs, num_layers=1, seeds=1))))
    for one in (shift, loss):
        (axis,) = {json.dumps(found["axis"]) for found in encodings(one.spec) if found["field"] == "epoch"}
        assert json.loads(axis)["values"] == marks


def labels(svg, title):
    """Of the axis or legend that an SVG describes so."""
    group = next(one for one in ElementTree.fromstring(svg).iter() if title in one.get("aria-label", ""))
    return [text.text for text in group.iter() if text.tag.endswith("text") and text.text]


@pytest.mark.parametrize(
    ("low", "high"), [(0.061, 0.089), (0.0613, 0.0614), (0.03, 0.14), (0.001, 3.0), (2.1, 9.9), (0.05, 0.05)]
)
def test_a_logarithmic_axis_has_marks_however_small_its_span(low, high):
    record = study(num_layers=4, seeds=1)
    rows = [
        replace(row, value=high if row.layer == "norm4" else low, error=None) if "shift" in row.metric else row
        for row in record.rows
    ]
    (figure,) = shift_by_layer(summaries(read_study(replace(record, rows=tuple(rows)))))
    texts = labels(figure.to_svg(figure.views[0]), "Y-axis")
    marks = [float(text) for text in texts if text.replace(".", "").isdigit()]
    assert len(marks) >= (2 if high > low else 1)
    assert all(low * 0.999 <= mark <= high * 1.001 for mark in marks)


def test_the_legend_of_the_map_shows_its_ends():
    record = study(num_layers=2, seeds=1)
    (figure,) = shift_by_momentum(summaries(read_study(record)))
    texts = labels(figure.to_svg(figure.views[0]), "legend")
    shifts = [row["shift"] for row in figure.views[0].rows]
    assert {f"{min(shifts):.2g}", f"{max(shifts):.2g}"} <= set(texts)


def test_one_epoch_is_no_course():
    assert during_training(summaries(read_study(study(epochs=1)))) == ()

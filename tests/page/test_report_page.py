"""What a reader of the page meets: in a browser, with a mouse or a keyboard, wide or narrow, by day or by night."""

import pytest

CHARTS = (
    "difference-by-arm",
    "confusion",
    "confusion-difference",
    "accuracy-by-momentum",
    "nll-by-momentum",
    "shift-by-momentum",
    "shift-by-layer",
    "shift-by-epoch",
    "loss-by-epoch",
)


def colour(page, selector, what):
    return page.eval_on_selector(selector, f"(found) => getComputedStyle(found).{what}")


def mark(page, chart, named):
    """A symbol of a chart, by what its label says."""
    return page.locator(f'#{chart} svg [aria-roledescription="{named}"]')


@pytest.mark.parametrize("name", ["study", "grid", "nasty", "hundred", "claims", "claims-nasty"])
def test_nothing_goes_wrong_and_nothing_is_fetched(visit, pages, name):
    page = visit(name)
    assert page.said == []
    assert page.asked == [pages[name].as_uri()]


def test_every_chart_is_drawn_and_says_what_it_is(visit):
    page = visit("study")
    for chart in CHARTS:
        drawing = page.locator(f"#{chart} .chart svg")
        assert drawing.bounding_box()["width"] > 900, chart
        label = page.locator(f"#{chart} .chart").get_attribute("aria-label") or ""
        title = page.locator(f"#{chart}-title").inner_text()
        assert label.startswith(title) and len(label) > len(title) + 40, chart


CUT = """(width) => [...document.querySelectorAll("figure:not([hidden]) .chart svg text")].filter((text) => {
    const svg = text.ownerSVGElement.getBoundingClientRect(), box = text.getBoundingClientRect();
    const hidden = getComputedStyle(text).opacity === "0"; // a label for which there is no room
    return box.width && !hidden && (box.left < svg.left - 1 || box.right > Math.min(svg.right, width) + 1 || box.bottom > svg.bottom + 1);
}).map((text) => text.textContent)"""


@pytest.mark.parametrize("name", ["study", "grid", "hundred", "claims"])
@pytest.mark.parametrize("width", [380, 700, 1100])
def test_nothing_is_cut_and_nothing_scrolls_sideways(visit, name, width):
    page = visit(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT, width) == []


def test_a_wide_table_scrolls_in_its_own_box(visit):
    page = visit("study", width=380)
    box = page.locator(".scroll").first
    assert box.evaluate("(found) => found.scrollWidth > found.clientWidth")
    assert box.get_attribute("tabindex") == "0" and box.get_attribute("aria-label")


def test_hovering_shows_values(visit):
    page = visit("study")
    tooltip = page.locator("#vg-tooltip-element")
    page.locator("#shift-by-momentum svg .mark-text.role-mark text").first.hover()
    assert "of 5 seeds" in tooltip.inner_text()
    mark(page, "shift-by-momentum", "rect mark").nth(3).hover(force=True)
    tooltip.wait_for(state="visible")
    named = {text.rstrip(":") for text in tooltip.locator("td.key").all_inner_texts()}
    assert named == {"layer", "momentum", "shift, σ", "noise floor, σ", "taken by dmbn"}
    mark(page, "difference-by-arm", "point").nth(2).hover(force=True)
    page.wait_for_function("document.querySelector('#vg-tooltip-element').textContent.includes('±')")
    assert "noise" in tooltip.inner_text()


def cells(page, chart):
    """ "Dress predicted as Coat" → the number, of every cell of a map, as a screen reader says them."""
    labels = page.locator(f"#{chart} svg .mark-rect.role-mark path")
    said = [label.rsplit(": ", 1) for label in labels.evaluate_all("(all) => all.map((one) => one.ariaLabel)")]
    assert len(dict(said)) == len(said)
    return dict(said)


def test_a_number_of_the_confusion_matrix_is_that_of_the_record(visit, records):
    """A cell, what hovering says of it, and the table beside it: counts over the images of the class, mean over seeds."""
    matrices = [one.counts for one in records["study"].class_counts if one.arm == "static-0.1"]
    dress, as_coat = (sum(100 * one[3][column] / sum(one[3]) for one in matrices) / 5 for column in (3, 4))
    page = visit("study")
    said = cells(page, "confusion")
    assert len(said) == 30  # the diagonal, and two errors of each class
    assert said["Dress predicted as Dress"] == f"{dress:.2f} %"
    assert said["Dress predicted as Coat"] == f"{as_coat:.2f} %"
    written = page.locator("#confusion svg .mark-text.role-mark text")
    assert written.count() == 30 and written.nth(3).text_content() == f"{dress:.1f}"
    written.nth(3).hover(force=True)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert (
        tooltip.inner_text().split()
        == f"true class Dress predicted class Dress % of the true class {dress:.2f}".split()
    )
    row = page.locator("tr", has=page.locator("th", has_text="Dress")).first
    assert row.locator("td").nth(1).inner_text().startswith(f"{dress:.2f} ± ")


def test_the_largest_changes_are_named_where_they_are_drawn(visit, records):
    page = visit("study")
    named = page.locator("section:has(#confusion) .note").first.inner_text()
    assert named.startswith("dmbn − static-0.1, points, paired by seed, ± 95 %: F changes beyond noise in ")
    assert "Dress (-2" in named
    assert page.locator("#confusion-difference-title").inner_text().endswith(" of 10 classes")
    right = {
        arm: sum(100 * one.counts[3][3] / 30 for one in records["study"].class_counts if one.arm == arm) / 5
        for arm in ("static-0.1", "dmbn")
    }
    lost = cells(page, "confusion-difference")["Dress predicted as Dress"]
    assert lost == f"−{right['static-0.1'] - right['dmbn']:.2f} points"
    legend = page.locator("#confusion-difference svg .role-legend-label text")
    assert legend.all_text_contents() == ["static-0.1", "dmbn"]


def test_a_map_of_100_classes_has_no_numbers_in_its_cells(visit):
    page = visit("hundred", width=700)
    assert len(cells(page, "confusion")) == 300
    assert page.locator("#confusion svg .mark-text.role-mark text").count() == 0
    assert page.locator("#confusion svg").bounding_box()["height"] < 1000
    page.locator("#confusion svg .mark-rect.role-mark path").nth(72).hover(force=True)
    page.wait_for_function("document.querySelector('#vg-tooltip-element')?.textContent.includes('aquarium_fish_72')")
    assert page.locator("section:has(#confusion) tbody tr").count() == 12 + 2


def test_day_and_night_follow_the_system_while_it_is_open(visit):
    page = visit("study")

    def look():
        mark(page, "shift-by-momentum", "rect mark").first.hover()
        page.wait_for_selector("#vg-tooltip-element.visible")
        return (
            colour(page, "html", "backgroundColor"),
            colour(page, "#vg-tooltip-element", "backgroundColor"),
            colour(page, "#shift-by-layer svg .role-axis-label text", "fill"),
            colour(page, "#difference-by-arm svg .mark-rule line", "stroke"),
        )

    day = look()
    page.emulate_media(color_scheme="dark")
    night = look()
    assert all(a != b for a, b in zip(day, night, strict=True))
    assert day[0] == "rgb(255, 255, 255)" and night[0] == "rgb(21, 24, 28)"
    page.emulate_media(color_scheme="light")
    assert look() == day
    assert page.said == []


def test_it_prints_in_the_colours_of_paper_at_night(visit):
    page = visit("study", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert colour(page, "html", "backgroundColor") == "rgb(255, 255, 255)"
    assert colour(page, "#shift-by-layer svg .role-axis-label text", "fill") == "rgb(89, 99, 110)"


def test_the_keyboard_reaches_the_settings_and_changes_them(visit):
    page = visit("grid")
    select = page.locator("#setting")
    for _ in range(20):
        page.keyboard.press("Tab")
        if select.evaluate("(found) => found === document.activeElement"):
            break
    assert select.evaluate("(found) => found.matches(':focus-visible')")
    assert colour(page, "#setting", "outlineStyle") == "solid"

    def shown():
        return page.locator("[data-setting]:not([hidden]) tbody tr:first-child td:nth-child(2)").first.inner_text()

    before, drawing = shown(), page.locator("#difference-by-arm .chart").inner_html()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(
        "(was) => document.querySelector('#difference-by-arm .chart').innerHTML !== was", arg=drawing
    )
    assert select.evaluate("(found) => found.selectedOptions[0].textContent.trim()") == "mlp, batch 8"
    assert shown() != before
    assert {part.get_attribute("data-setting") for part in page.locator("[data-setting]:not([hidden])").all()} == {"1"}
    assert page.locator("#shift-by-layer .chart svg").count() == 1 and page.said == []


def test_every_part_that_acts_can_be_reached_by_keys(visit):
    page = visit("study")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.type || document.activeElement.tagName.toLowerCase()"))
    assert {"summary", "radio", "div", "code", "button"} <= reached


def test_the_reference_of_the_shift_is_chosen(visit):
    page = visit("study")
    chart = page.locator("#shift-by-layer .chart")
    before = chart.locator("svg").inner_html()
    page.locator("#shift-by-layer input[value=joint]").check()
    page.wait_for_function(
        "(was) => document.querySelector('#shift-by-layer .chart svg').innerHTML !== was", arg=before
    )
    assert page.said == []


def test_a_name_of_the_legend_is_seen_alone(visit):
    page = visit("study")
    points = "[...document.querySelectorAll('#shift-by-layer svg .mark-symbol.role-mark path')]"
    assert page.evaluate(f"{points}.every((point) => getComputedStyle(point).opacity === '1')")
    page.locator("#shift-by-layer svg .role-legend-label text", has_text="recalibrated").click()
    page.wait_for_function(f"{points}.some((point) => getComputedStyle(point).opacity === '0.1')")
    assert page.evaluate(f"{points}.some((point) => getComputedStyle(point).opacity === '1')")


def test_the_command_is_copied_or_at_least_marked(visit):
    page = visit("study")
    page.locator(".command button").click()
    page.wait_for_function("document.querySelector('.command button').textContent !== 'Copy'")
    assert page.evaluate("getSelection().toString().trim()") == "truenorm study --out results/study"


def test_without_a_script_text_and_tables_are_there(visit):
    page = visit("grid", script=False)
    assert page.locator("h1").inner_text()
    assert (
        page.locator("table").count() == page.locator("table:visible").count() + page.locator("details table").count()
    )
    assert page.locator(".of", has_text="timm:resnet18, batch 64").first.is_visible()
    assert "JavaScript" in page.locator("noscript").first.inner_text()
    assert not page.locator(".command button").is_visible()


def test_names_come_out_as_text(visit):
    page = visit("nasty")
    assert page.said == []
    texts = page.locator("#shift-by-momentum svg text").all_text_contents()
    assert "<script>alert(1)</script>" in texts
    assert "{{ 7 * 7 }}" in page.locator("#confusion svg text").all_text_contents()
    assert "</script><b>" in page.locator("#setting option").first.inner_text()

"""What a reader of the page of claims meets."""

import pytest
from page.test_report_page import colour

CARDS = ("along", "below", "alone")


def test_every_chart_is_drawn_and_says_what_it_is(visit):
    page = visit("claims")
    for chart in ("along", "along-2", "below", "alone"):
        drawing = page.locator(f"#{chart} .chart svg")
        assert drawing.bounding_box()["width"] > 400, chart
        assert "is better. Symbols are means" in (page.locator(f"#{chart} .chart").get_attribute("aria-label") or "")
    assert page.locator("#along-title").inner_text() == "batch size 16"


def test_panels_stand_side_by_side_where_there_is_room(visit):
    def boxes(page):
        return [page.locator(f"#{chart} .chart").bounding_box() for chart in ("along", "along-2")]

    left, right = boxes(visit("claims"))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    above, below = boxes(visit("claims", width=380))
    assert above["x"] == below["x"] and above["y"] + above["height"] < below["y"]


def test_the_overview_leads_to_each_card(visit):
    page = visit("claims")
    for place, name in enumerate(CARDS):
        page.locator(".overview a").nth(place).click()
        page.wait_for_function(
            "(name) => Math.abs(document.getElementById(name).getBoundingClientRect().top) < 40 || "
            "innerHeight + scrollY >= document.documentElement.scrollHeight - 2",
            arg=f"claim-{name}",
        )
        assert page.url.endswith(f"#claim-{name}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_have_colours_that_can_be_read(visit, scheme):
    """4.5 to 1 against the paper, as WCAG asks of small text."""
    page = visit("claims", scheme=scheme)

    def light(text):
        numbers = [int(part) / 255 for part in text[4:-1].split(",")]
        red, green, blue = (n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in numbers)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    paper = light(colour(page, "html", "backgroundColor"))
    seen = {light(colour(page, f".badge.{kind}", "color")) for kind in ("yes", "no", "open")}
    assert len(seen) == 3
    for one in seen:
        assert (max(one, paper) + 0.05) / (min(one, paper) + 0.05) >= 4.5


def test_day_and_night(visit):
    page = visit("claims")

    def look():
        return [
            colour(page, selector, what)
            for selector, what in (
                (".badge.yes", "color"),
                (".track .dot", "fill"),
                (".keys path", "fill"),
                ("#along svg .role-axis-label text", "fill"),
            )
        ]

    day = look()
    page.emulate_media(color_scheme="dark")
    assert all(a != b for a, b in zip(day, look(), strict=True))
    page.emulate_media(media="print", color_scheme="dark")
    assert look() == day


def test_hovering_shows_values(visit):
    page = visit("claims")
    page.locator('#along svg [aria-roledescription="point"]').nth(2).hover(force=True)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    named = {text.rstrip(":") for text in tooltip.locator("td.key").all_inner_texts()}
    assert named == {"arm", "learning rate", "accuracy, %", "seeds"}
    assert "±" in tooltip.inner_text()


def test_the_numbers_unfold(visit):
    page = visit("claims", width=380)
    table = page.locator("#claim-along details table")
    assert not table.is_visible()
    page.locator("#claim-along summary").click()
    assert table.is_visible() and table.locator("tbody tr").count() == 24
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_without_a_script_all_but_the_charts_is_there(visit):
    page = visit("claims", script=False)
    assert page.locator(".track .dot").count() == 5
    for name in CARDS:
        assert page.locator(f"#claim-{name} .badge").first.is_visible()
        assert page.locator(f"#claim-{name} .bars .told").first.inner_text()
    assert page.locator("#claim-along summary").is_visible()
    assert "JavaScript" in page.locator("noscript").first.inner_text()


def test_names_come_out_as_text(visit):
    page = visit("claims-nasty")
    assert page.said == []
    assert page.locator("h1").inner_text().startswith("“</script><script>alert(1)</script>”")
    assert page.locator(".keys").inner_text().count("</script>") >= 3

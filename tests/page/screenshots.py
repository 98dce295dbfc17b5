"""Take the pictures of the documents: `make screenshots`. Needs the `report` and `dev` extras, and a chromium."""

import tempfile
from pathlib import Path

from chromium import CHROMIUM, FLAGS, MISSING
from playwright.sync_api import sync_playwright

from truenorm.lab.report.shown import shown
from truenorm.record import Record

DOCS = Path(__file__).parents[2] / "docs"
STUDY, CLAIMS = "mnist-batch-4-constant", "claims/digits"
SHOTS = {  # name: record, width, height, scheme, what is at the top (else the beginning)
    "report-light": (STUDY, 1100, 1500, "light", None),
    "report-dark": (STUDY, 1100, 1500, "dark", "section:has(#accuracy-by-momentum)"),
    "report-narrow": (STUDY, 380, 1500, "light", None),
    "claims-light": (CLAIMS, 1100, 1500, "light", "#claim-higher-rates"),
}


def main() -> None:
    """Draw the pages of committed records and look at them: by day, by night, and on a telephone."""
    if CHROMIUM is None:
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, (record, width, height, scheme, top) in SHOTS.items():
            file = Path(folder) / f"{name}.html"
            file.write_text(shown(Record.load(DOCS / "results" / record)).page(), encoding="utf-8")
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-drawn]")
            if top is not None:
                page.locator(top).evaluate("(found) => scrollTo(0, found.getBoundingClientRect().top)")
            target = DOCS / "images" / f"{name}.png"
            page.screenshot(path=target)
            print(target.relative_to(DOCS.parent), f"{target.stat().st_size / 1000:.0f} KB")
        browser.close()


if __name__ == "__main__":
    main()

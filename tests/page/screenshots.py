"""Take the pictures of docs/report.md: `make screenshots`. Needs the `report` and `dev` extras, and a chromium."""

import tempfile
from pathlib import Path

from chromium import CHROMIUM, FLAGS, MISSING
from playwright.sync_api import sync_playwright

from truenorm.record import Record
from truenorm.report import study_page

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "results" / "mnist-batch-4-constant"
SHOTS = {  # name: width, height, scheme, what is at the top (else the beginning)
    "report-light": (1100, 1500, "light", None),
    "report-dark": (1100, 1500, "dark", "section:has(#accuracy-by-momentum)"),
    "report-narrow": (380, 1500, "light", None),
}


def main() -> None:
    """Draw the page of a committed record and look at it: by day, by night, and on a telephone."""
    if CHROMIUM is None:
        raise SystemExit(MISSING)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(study_page(Record.load(RECORD)), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, (width, height, scheme, top) in SHOTS.items():
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

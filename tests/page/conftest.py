"""A browser without a window, and pages to look at with it."""

import pytest
from page.chromium import CHROMIUM, FLAGS, MISSING
from unit.lab.report import synthetic_claims as claims
from unit.lab.report.synthetic import ARMS, MOMENTA, study

from truenorm.lab.report import claims_page, study_page
from truenorm.lab.report.claims.record import read_claims
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries

FASHION = ("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SWEEP = tuple(f"static-{momentum:g}" for momentum in MOMENTA)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip(MISSING)
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        # A profile of its own, thrown away afterwards, is what launch() gives.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def records():
    """Name → the record of a study."""
    arms = (*SWEEP, "cumulative", *ARMS, "dmbn-switch", "dmbn-online", "bn-bfn", "gn")
    return {
        "study": study(
            num_layers=6,
            seeds=5,
            epochs=6,
            arms=arms,
            gains={"adaptive": 0.01},
            classes=FASHION,
            shifts={"dmbn": {3: -9}},
        ),
        "grid": study(
            batch_sizes=(2, 8, 64),
            networks=("mlp", "timm:resnet18"),
            num_layers=12,
            layer="layer{}.0.bn1",
            classes=FASHION,
        ),
        "nasty": study(
            num_layers=2,
            layer="<script>alert({})</script>",
            networks=("</script><b>", "mlp"),
            seeds=2,
            classes=("<script>alert(3)</script>", "</script>", "{{ 7 * 7 }}"),
        ),
        "hundred": study(num_layers=2, seeds=3, classes=tuple(f"aquarium_fish_{number}" for number in range(100))),
    }


@pytest.fixture(scope="session")
def pages(tmp_path_factory, records):
    """Name → the file of a page."""
    folder = tmp_path_factory.mktemp("pages")
    for name, record in records.items():
        (folder / f"{name}.html").write_text(study_page(summaries(read_study(record))))
    gains = {("along", 256): 0.1, "below": 1.3, "alone": -0.05}
    nasty = "</script><script>alert(1)</script>"
    odd = claims.claim(
        3, "odd", claims.ALONE.parts, claims.ALONE.picture, title=nasty, plainly=nasty, arms={"bn": nasty, nasty: nasty}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("truenorm.lab.claims.catalogue.CLAIMS", (*claims.CATALOGUE, odd))
        of_claims = {
            "claims": claims.record(gains=gains, far=("ghost-32",), diverged=[("none", 4)]),
            "claims-nasty": claims.record(claims=(odd,), notes=(nasty, f"odd: {nasty}")),
        }
        for name, record in of_claims.items():
            (folder / f"{name}.html").write_text(claims_page(read_claims(record)))
    return {name: folder / f"{name}.html" for name in (*records, *of_claims)}


@pytest.fixture
def visit(browser, pages):
    """Open a page and wait until it is drawn; what went wrong is in its `said` and `asked`."""
    contexts = []

    def open_page(name, *, width=1100, scheme="light", script=True):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=script
        )
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(pages[name].as_uri())
        if script:
            page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for context in contexts:
        context.close()

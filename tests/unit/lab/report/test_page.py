"""One page, complete in itself; what is text comes out as text."""

import base64
import gzip
import json
import re
import sys
from html.parser import HTMLParser

import pytest
from inline_snapshot import snapshot
from unit.lab.report.synthetic import ARMS, MOMENTA, study

from truenorm.errors import MissingExtra
from truenorm.lab.report import Comparison, comparison_page, diagnosis_page, study_page
from truenorm.lab.report.diagnosis import read_diagnosis
from truenorm.lab.report.figure import View, figure, rows
from truenorm.lab.report.page import Section, Tables, needed, page
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import summaries
from truenorm.record import Record
from truenorm.show import Table

pytestmark = pytest.mark.slow  # draws whole pages

NASTY = "</script><script>alert(\"1\")</script> & 'x' <!-- {{ 7 * 7 }}"
LARGEST = 1_500_000


class Read(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.opened, self.closed, self.texts, self.attributes, self.scripts = [], [], [], [], {}
        self.within = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.attributes += attrs
        self.within = dict(attrs).get("id", tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.closed.append(tag)
        self.within = None

    def handle_data(self, data):
        if self.within is None:
            self.texts.append(data)
        else:
            self.scripts[self.within] = self.scripts.get(self.within, "") + data


def unpacked(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def table(name="bn1"):
    return Table(title="shift", columns=("layer", "σ", ""), rows=((name, "0.31", "███"),), notes=(f"of {name}",))


def simple(name="bn1", **options):
    section = Section(heading=name, parts=(Tables(views=((table(name),),)),), text=(name,), lines=((name, name),))
    return page(name, name, section, text=(name,), **options)


def drawn(name="bn1"):
    import altair as alt

    chart = alt.Chart(rows()).mark_point().encode(x="a:Q", y="b:N")
    return figure("a-chart", chart, name, [View(title=name, rows=({"a": 1.0, "b": name},))])


RECORD = Record(
    command="truenorm study --out 'a b'",
    configuration={"data": ["digits"], "lrs": [], "images": {"digits": {"test": 359}}, "limit": None},
    versions={"torch": "2.13"},
    machine={"cores": 2},
    notes=("a note",),
)


def test_what_is_given_is_there():
    read = Read(simple(record=RECORD))
    shown = {text.strip() for text in read.texts}
    assert {"bn1", "0.31", "σ", "shift", "███", "of bn1"} <= shown
    assert {RECORD.command, "torch", "2.13", "cores", "2", "a note", "digits: test: 359", "none"} <= shown


def test_without_a_record_nothing_is_said_of_how_it_was_made():
    assert "How this was made" not in simple() and "code" not in Read(simple()).opened


def test_every_name_comes_out_as_text():
    record = Record(command=NASTY, configuration={NASTY: NASTY}, machine={NASTY: NASTY}, notes=(NASTY,))
    plain, read = Read(simple(record=record)), Read(simple(NASTY, record=record))
    assert read.opened == plain.opened
    assert sum(text.count(NASTY) for text in read.texts) >= 15
    assert "49" not in "".join(read.texts)


def test_names_in_charts_come_out_as_text():
    html = page("t", "h", Section(heading="s", parts=drawn(NASTY)))
    read, plain = Read(html), Read(page("t", "h", Section(heading="s", parts=drawn())))
    assert read.opened == plain.opened
    views = json.loads(unpacked(read.scripts["views"]))
    assert views["a-chart"][0]["chart"]["datasets"]["rows"] == [{"a": 1.0, "b": NASTY}]


def test_names_in_specifications_come_out_as_text():
    import altair as alt

    chart = alt.Chart(rows(), description=NASTY).mark_point().encode(x=alt.X("a:Q", title=NASTY))
    found = figure("a-chart", chart, "t", [View(title="t", rows=({"a": 1.0},))])
    html = page("t", "h", Section(heading="s", parts=found))
    assert json.loads(Read(html).scripts["specs"])["a-chart"]["encoding"]["x"]["title"] == NASTY
    assert html.count("</script") == 4


def test_this_test_sees_what_is_not_escaped():
    """Planted: the name as it is, where it stands escaped."""
    html = simple("bn1").replace("<h2>bn1", f"<h2>{NASTY}")
    assert Read(html).opened != Read(simple("bn1")).opened


@pytest.mark.parametrize("html", [simple(record=RECORD), page("t", "h", Section(heading="s", parts=drawn()))])
def test_every_tag_is_closed(html):
    read = Read(html)
    alone = {"meta", "!doctype"}
    assert sorted(tag for tag in read.opened if tag not in alone) == sorted(read.closed)
    assert html.lstrip().startswith("<!doctype html>\n<html")


def test_nothing_is_fetched():
    read = Read(page("t", "h", Section(heading="s", parts=drawn()), record=RECORD))
    assert not {"link", "img", "iframe", "object"} & set(read.opened)
    assert not {"src", "href", "onload", "onclick"} & {name for name, _ in read.attributes}
    policy = next(value for _, value in read.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none';") and "http" not in policy


def test_without_charts_no_library_comes_along():
    assert len(simple()) < 20_000 and "library" not in Read(simple()).scripts


def test_equal_records_give_equal_pages():
    record = study(num_layers=2)
    assert study_page(summaries(read_study(record))) == study_page(summaries(read_study(record)))


# The pages that there are.


def test_the_page_of_a_study():
    record = study(num_layers=2, epochs=2, arms=("static-0.1", "static-0.5", *ARMS, "bn-bfn", "gn"))
    read = Read(study_page(summaries(read_study(record))))
    assert [text.strip() for text in read.texts if text.strip()][1:3] == snapshot(
        [
            "truenorm study · digits · mlp · batch 32 · cosine · 3 seeds",
            "No difference in accuracy is shown between torch's default statistics and any of the 8 ways compared.",
        ]
    )
    assert set(json.loads(read.scripts["specs"])) == snapshot(
        {
            "accuracy-by-momentum",
            "difference-by-arm",
            "loss-by-epoch",
            "nll-by-momentum",
            "shift-by-epoch",
            "shift-by-layer",
            "shift-by-momentum",
        }
    )
    assert "select" not in read.opened and read.opened.count("figcaption") == 7


def test_the_page_of_a_grid():
    read = Read(study_page(summaries(read_study(study(batch_sizes=(2, 8, 64), num_layers=2)))))
    options = [value for name, value in read.attributes if name == "value"]
    assert options == ["0", "1", "2"] and "batch 64" in {text.strip() for text in read.texts}
    views = json.loads(unpacked(read.scripts["views"]))
    assert {name: len(found) for name, found in views.items()} == snapshot(
        {
            "contrast-dmbn-static-0.1": 1,
            "contrast-dmbn-recalibrated": 1,
            "contrast-pooled-0.1-static-0.1": 1,
            "contrast-adaptive-recalibrated": 1,
            "contrast-bn-bfn-static-0.1": 1,
            "contrast-bn-bfn-dmbn": 1,
            "difference-by-arm": 3,
            "shift-by-momentum": 3,
            "shift-by-layer": 3,
        }
    )
    # Tables of every setting are there without a script.
    assert read.opened.count("table") == 2 + 3 * 4


def test_a_layer_of_any_name():
    record = study(num_layers=1, seeds=1, layer=NASTY, networks=(NASTY, "mlp"))
    plain = study(num_layers=1, seeds=1, networks=("a", "mlp"))
    assert (
        Read(study_page(summaries(read_study(record)))).opened == Read(study_page(summaries(read_study(plain)))).opened
    )


def test_a_grid_of_36_settings_and_20_layers_is_small():
    arms = (*(f"static-{momentum:g}" for momentum in MOMENTA), "cumulative", *ARMS, "bn-bfn", "gn")
    axes = {"batch_sizes": (2, 4, 8, 16, 32, 64), "networks": ("mlp", "cnn", "resnet20")}
    record = study(**axes, schedules=("cosine", "constant"), num_layers=20, seeds=2, arms=arms, epochs=10)
    html = study_page(summaries(read_study(record)))
    assert len(html.encode()) < LARGEST
    assert len(json.loads(unpacked(Read(html).scripts["views"]))["shift-by-layer"]) == 36


def test_the_page_of_records_side_by_side():
    one = study(seeds=3, num_layers=1)
    read = Read(comparison_page(Comparison({"before": one, NASTY: one})))
    assert list(json.loads(read.scripts["specs"])) == ["difference-by-record-1"]
    assert sum(NASTY in text for text in read.texts) >= 3
    other = Read(comparison_page(Comparison({"a": one, "b": study(seeds=3, num_layers=1, data=("mnist",))})))
    assert "specs" not in other.scripts
    assert [text for text in other.texts if text.startswith("Studies side")] == snapshot(
        ["Studies side by side; their tests differ, so no differences are taken."]
    )


def test_the_page_of_a_diagnosis_of_which_nothing_was_measured():
    finding = {"sentence": NASTY, "level": "note", "evidence": {}}
    trial = {"healthy": True, "verdict": "healthy", "findings": [finding], "recommendation": NASTY}
    record = Record(command=NASTY, trials={"diagnosis": trial})
    read = Read(diagnosis_page(read_diagnosis(record)))
    assert read.texts.count(NASTY) == 3 and "Healthy" in read.texts
    assert "figure" not in read.opened


# Without the extra.


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.setattr("truenorm.lab.report.page._library", lambda: needed())
    for draw in (needed, lambda: study_page(summaries(read_study(study(seeds=1, num_layers=1))))):
        with pytest.raises(MissingExtra) as caught:
            draw()
        assert str(caught.value) == snapshot(
            "vl-convert-python is not installed; run: pip install 'altair>=6' 'jinja2>=3.1' 'vl-convert-python>=1.9'"
        )


def test_reading_records_imports_neither_torch_nor_altair():
    import subprocess

    code = (
        "import sys, truenorm.lab.report, truenorm.cli.report\n"
        "print({name for name in ('torch', 'altair', 'jinja2', 'vl_convert') if name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_package_brings_its_template():
    from importlib.resources import files

    names = {file.name for file in files("truenorm.lab.report").joinpath("template").iterdir()}
    assert names == {"page.html.jinja", "page.css", "page.js", "article.html.jinja", "article.css", "how-to-read.txt"}
    assert re.search(r"https?:", files("truenorm.lab.report").joinpath("template", "page.js").read_text()) is None

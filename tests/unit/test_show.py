import io
from html.parser import HTMLParser

import pytest
from inline_snapshot import snapshot
from rich.console import Console

from truenorm.show import Table, number, plain

NASTY = ("[red]layer[/red]", "<b>bold</b>", "a & b", "[/]", ":smile:", "[link=x]y[/link]", "\\[x]")


def nasty():
    return Table(
        title="<i>[blue]title",
        columns=("[u]layer", "<td>σ"),
        rows=tuple((name, name) for name in NASTY),
        notes=("[bold]note</p>",),
    )


def printed(table, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


class Texts(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.texts, self.tags = [], set()
        self.feed(html)
        self.close()

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def test_a_table_in_a_terminal():
    table = Table(
        title="shift", columns=("layer", "σ"), rows=(("bn1", "0.31"), ("layer1.bn2", "1.94")), notes=("in σ", "two")
    )
    assert printed(table) == snapshot("""\
shift              \n\
                   \n\
 layer           σ \n\
 ───────────────── \n\
 bn1          0.31 \n\
 layer1.bn2   1.94 \n\
                   \n\
in σ               \n\
two                \n\
""")


def test_a_table_as_html():
    table = Table(title="shift", columns=("layer", "σ"), rows=(("bn1", "0.31"),), notes=("in σ",))
    assert table.to_html() == snapshot(
        "<table><caption>shift</caption><thead><tr><th>layer</th><th>σ</th></tr></thead>"
        "<tbody><tr><td>bn1</td><td>0.31</td></tr></tbody></table><p>in σ</p>"
    )
    assert table._repr_html_() == table.to_html()


@pytest.mark.parametrize("text", [*NASTY, "<i>[blue]title", "[u]layer", "<td>σ", "[bold]note</p>"])
def test_names_come_out_as_text_in_a_terminal(text):
    assert text in printed(nasty())


def test_names_come_out_as_text_in_html():
    found = Texts(nasty().to_html())
    assert found.texts == ["<i>[blue]title", "[u]layer", "<td>σ", *(n for n in NASTY for _ in "12"), "[bold]note</p>"]
    assert found.tags == {"table", "caption", "thead", "tr", "th", "tbody", "td", "p"}


def test_these_comparisons_see_markup():
    """Planted: the same names as rich markup and as raw HTML do not come out as text."""
    console = Console(file=io.StringIO(), width=100)
    console.print("[red]layer[/red]")
    assert "[red]layer" not in console.file.getvalue()
    assert "b" in Texts("<table><td><b>bold</b></td></table>").tags


def test_a_narrow_terminal_keeps_the_names_whole():
    table = Table(title="t", columns=("layer", "what"), rows=(("features.norm0", "a long sentence of words"),))
    assert "features.norm0" in printed(table, width=30)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.000123456, 3, "0.000123"),
        (0.0, 3, "0"),
        (12.5, 3, "12.5"),
        (2e-7, 3, "2e-07"),
        (0.1 + 0.2, 3, "0.3"),
        (123.0, 2, "1.2e+02"),
        (-0.5, 3, "-0.5"),
    ],
)
def test_numbers(value, digits, text):
    assert number(value, digits) == text


def test_plain_is_what_a_terminal_of_this_width_shows():
    table = Table(title="shift", columns=("layer", "σ"), rows=(("bn1", "0.31"),), notes=("in σ",))
    lines = [line.rstrip() for line in printed(table).rstrip().splitlines()]
    assert plain(table, 100) == "\n".join(lines)
    assert plain(table) == snapshot("""\
shift

 layer      σ
 ────────────
 bn1     0.31

in σ\
""")


@pytest.mark.parametrize("width", [30, 60, 120])
def test_plain_keeps_to_its_width(width):
    rows = (("features.norm0", "a sentence of words that is longer than any terminal " * 4),)
    found = plain(Table(title="t", columns=("layer", "what"), rows=rows), width)
    assert max(map(len, found.splitlines())) <= width
    assert not any(line != line.rstrip() for line in found.splitlines())
    assert "features.norm0" in found


@pytest.mark.parametrize("text", NASTY)
def test_plain_takes_names_for_text(text):
    assert text in plain(nasty())


def test_plain_has_no_colours_whatever_the_terminal_is(monkeypatch):
    table = Table(title="t", columns=("layer", "12"), rows=(("bn1", "0.31"),))
    expected = plain(table)
    for name, value in (
        ("FORCE_COLOR", "1"),
        ("COLORTERM", "truecolor"),
        ("TERM", "xterm-256color"),
        ("COLUMNS", "20"),
    ):
        monkeypatch.setenv(name, value)
    assert plain(table) == expected
    assert "\x1b" not in expected


def test_a_column_without_a_heading_holds_bars():
    """They begin where the column does, and are not wrapped."""
    table = Table(title="t", columns=("layer", "σ", ""), rows=(("bn1", "2", "████████"), ("bn2", "1", "████")))
    lines = plain(table).splitlines()
    assert [line.index("█") for line in lines if "█" in line] == [lines[-1].index("█")] * 2

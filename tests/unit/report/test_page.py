"""One page, complete in itself; what is text comes out as text."""

import re
from html.parser import HTMLParser

from truenorm.report.page import page
from truenorm.show import Table

NASTY = "<script>alert(\"1\")</script> & 'x'"


class Read(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.opened, self.closed, self.texts, self.attributes = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        self.closed.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def table(name="bn1"):
    return Table(title="shift", columns=("layer", "σ"), rows=((name, "0.31"),)).to_html()


def test_title_body_and_command():
    read = Read(page("a diagnosis", table(), command="truenorm diagnose --model net.py:make"))
    assert read.texts.count("a diagnosis") == 2
    assert "truenorm diagnose --model net.py:make" in read.texts
    assert {"bn1", "0.31", "σ", "shift"} <= set(read.texts)


def test_without_a_command():
    assert "code" not in Read(page("t", table())).opened


def test_title_and_command_are_text():
    read = Read(page(NASTY, table(), command=NASTY))
    assert read.texts.count(NASTY) == 3
    assert "script" not in read.opened


def test_the_body_is_html_whose_names_its_maker_escaped():
    read = Read(page("t", table(NASTY)))
    assert NASTY in read.texts and "script" not in read.opened


def test_the_comparison_sees_what_is_not_escaped():
    """Planted: the same name as the body itself."""
    assert "script" in Read(page("t", NASTY)).opened


def test_every_tag_is_closed():
    read = Read(page("t", table(), command="c"))
    alone = {"meta"}
    assert sorted(tag for tag in read.opened if tag not in alone) == sorted(read.closed)
    assert page("t", "").startswith("<!doctype html>\n<html")


def test_it_needs_no_network_and_runs_nothing():
    html = page("t", table(), command="c")
    read = Read(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.opened)
    assert not {"src", "href", "onload", "onclick"} & {name for name, _ in read.attributes}
    assert not re.search(r"https?:|//|@import|url\(", html)
    assert ("charset", "utf-8") in read.attributes

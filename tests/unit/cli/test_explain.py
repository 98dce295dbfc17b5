import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "explain.md"


def printed(ended):
    assert (ended.code, ended.err) == (0, "")
    return ended.text


def test_the_walk(truenorm, golden):
    golden("explain.txt", printed(truenorm("explain")))


def test_the_golden_file_sees_another_number(truenorm, monkeypatch):
    """Planted: the last sample is 10."""
    golden = (Path(__file__).parent / "golden" / "explain.txt").read_text()
    assert printed(truenorm("explain")) == golden
    import truenorm.lab.explain.layer as room

    monkeypatch.setattr(room.explain, "__defaults__", ((*room.EIGHT[:-1], 10.0),))
    assert printed(truenorm("explain")) != golden


def test_as_markdown_it_is_the_page(truenorm):
    ended = truenorm("explain", "--markdown")
    assert (ended.code, ended.err, ended.out) == (0, "", PAGE.read_text())


def test_a_pipe_gets_text_without_colours_and_help_without_torch(golden):
    code = (
        "import sys; from truenorm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip

    walk, words = run("explain"), run("explain", "--help")
    golden("explain.txt", walk.stdout)
    golden("help-explain.txt", words.stdout)
    assert (walk.stderr, words.stderr) == ("True\n", "False\n")

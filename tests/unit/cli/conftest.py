import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from truenorm.cli import main

GOLDEN = Path(__file__).parent / "golden"
TINY = "--limit 100 --epochs 1 --batch-size 16 --widths 12 8 --seeds 2 --momenta 0.01 0.5 --arms all".split()  # noqa: SIM905  # read as it is typed


def stripped(text):
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self):
        """What it printed, without the blanks that fill a table's lines."""
        return stripped(self.out)

    @property
    def sentence(self):
        """The only line of standard error, with nothing on standard output."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert "Traceback" not in self.err
        return line

    @property
    def boxed(self):
        """The sentence in the box that the parser of the command line draws on standard error, and nothing else."""
        assert self.out == ""
        top, *lines, bottom = self.err.splitlines()
        assert top == f"╭─ Error {'─' * 90}╮" and bottom == f"╰{'─' * 98}╯"
        return " ".join(line.strip("│ ") for line in lines)


@pytest.fixture
def truenorm(capsys, monkeypatch, tmp_path):
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("TRUENORM_DATA", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["truenorm", *arguments])
        capsys.readouterr()
        try:
            main(list(arguments))  # the record's line comes from sys.argv
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture
def tiny():
    """The arguments of a study of every arm that takes less than a second."""
    return TINY


@pytest.fixture
def golden():
    """Compare with a file of golden/, but for blanks at the end of lines; TRUENORM_GOLDEN=write writes it."""

    def compare(name, text):
        text = stripped(text)
        if os.environ.get("TRUENORM_GOLDEN") == "write":
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text(), (
            "if the change is meant: TRUENORM_GOLDEN=write pytest, and read the diff"
        )

    return compare

"""Every example in a docstring, and every Python block of the documents, runs with the tests."""

from doctest import ELLIPSIS, IGNORE_EXCEPTION_DETAIL

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

pytest_collect_file = (
    Sybil(path="src", parsers=[DocTestParser(optionflags=ELLIPSIS | IGNORE_EXCEPTION_DETAIL)], patterns=["*.py"])
    + Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"])
).pytest()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random numbers of a test do not depend on which tests ran before it."""
    import torch

    torch.manual_seed(0)

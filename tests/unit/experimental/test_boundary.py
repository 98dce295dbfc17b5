"""Experimental features are off the main path: no other module knows them."""

import io
import tokenize
from pathlib import Path

import pytest

import truenorm

PACKAGE = Path(truenorm.__file__).parent
OTHERS = [
    path.relative_to(PACKAGE)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] != "experimental" and path != Path(truenorm.__file__)
]


def names_about_fusing(source):
    """The names in the code, and the words of its imports, that are about fusing or experiments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    return {
        name
        for name in names
        if "experimental" in name.lower() or ("fus" in name.lower().replace("refus", "").replace("confus", ""))
    }


def test_no_other_module_names_them():
    mentions = {str(path): names_about_fusing((PACKAGE / path).read_text()) for path in OTHERS}
    assert len(mentions) > 100
    assert {path: names for path, names in mentions.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    ["from truenorm.experimental import x", "import truenorm.model.fuse", "layer.fuses = True", "def _fused(): ..."],
)
def test_this_comparison_sees_a_mention(source):
    """Planted."""
    assert names_about_fusing(source)

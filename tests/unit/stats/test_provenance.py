"""Where statistics come from: typed, in files, and in words."""

import json
import pickle

import pytest
from inline_snapshot import snapshot

from truenorm.stats import Provenance
from truenorm.stats.provenance import merged

FULL = Provenance(
    rule="static-0.1", flow="sequential", variance="within", samples=12, processes=2, rounds=3, residual=1.23e-5,
    standard_error=0.0123, frozen=("a, b", "c"), skipped=("d",), repeated=("e",), measured_beside=("f",),
    passes_differ="images",
)  # fmt: skip


@pytest.mark.parametrize("provenance", [Provenance(), Provenance(flow="joint", samples=0), FULL])
def test_files_and_pickles_give_it_back(provenance):
    assert Provenance.from_dict(json.loads(json.dumps(provenance.to_dict()))) == provenance
    assert pickle.loads(pickle.dumps(provenance)) == provenance


def test_in_words():
    assert Provenance().words() == {}
    assert FULL.words() == snapshot(
        {
            "rule": "static-0.1",
            "flow": "sequential",
            "samples": 12,
            "processes": 2,
            "dropout": "off, as in evaluation",
            "variance": "within batches",
            "standard error": "0.012 σ",
            "rounds": 3,
            "residual": "1.2e-05 σ",
            "frozen": "a, b, c",
            "not reached": "d",
            "called more than once per forward": "e",
            "forward of its own, measured beside it (slower)": "f",
            "not exact": "the images differ between passes (augmentation, or another draw)",
        }
    )


def test_merged_says_what_is_so_of_all():
    one = Provenance(flow="joint", samples=64, skipped=("a", "b"), frozen=("x",), repeated=("c",))
    other = Provenance(flow="joint", samples=192, skipped=("b",), repeated=("d",))
    assert merged([one, other]) == Provenance(flow="joint", samples=256, skipped=("b",), repeated=("c", "d"))
    assert merged([one]) == one
    assert merged([one, Provenance(flow="eval")]) == Provenance(repeated=("c",))

"""What every room's tests share: the oracle on the path, one seed, a pair of processes, and torchvision.

The tests of a file run in one worker. `slow` ones are left out of `make test`: here those of interpreted kernels that no
pairwise cover needs.
"""

import io
import os
import random
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# Triton's kernels are interpreted where there is no GPU; it reads this when they are defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

sys.path.insert(0, str(Path(__file__).parent))


torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
settings.register_profile("no deadline", deadline=None)  # the first call of an operator takes long
settings.load_profile("no deadline")


@pytest.hookimpl(tryfirst=True)  # before slow ones are deselected
def pytest_collection_modifyitems(items):
    interpreted = defaultdict(list)
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "backend" in callspec.params and "triton" in callspec.id.split("-"):
            interpreted[item.path, item.originalname].append(item)
    for cases in interpreted.values():
        chosen = set(pairwise(cases))
        for item in cases:
            if item not in chosen:
                item.add_marker(pytest.mark.slow)


def pairwise(cases):
    """Cases of one test that have every pair of values of two parameters at least once; the fewest that are soon found."""
    pairs: dict[pytest.Item, set[object]] = {}
    for case in cases:  # by values: parameters that are given together have one index
        parameters = ((name, repr(value)) for name, value in case.callspec.params.items())
        pairs[case] = set(combinations(parameters, 2))
    left, chosen = set().union(*pairs.values()), []
    while left:
        best = max(cases, key=lambda case: len(pairs[case] & left))
        chosen.append(best)
        left -= pairs[best]
    return chosen or cases[:1]


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two processes with gloo: `pair.run(function, …)` gives what `function(rank, …)` gives in each."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    from processes import Pair

    running = Pair(tmp_path_factory.mktemp("pair"))
    yield running
    running.close()


@pytest.fixture
def shown_of():
    """The tables and the sentence of a record, as text: what every command that shows records prints of it."""
    from rich.console import Console

    from truenorm.cli.terminal import WIDE
    from truenorm.lab.report.shown import shown
    from truenorm.record import Record

    def text(place):
        console, found = Console(file=io.StringIO(), width=WIDE, highlight=False), shown(Record.load(place))
        for table in found.tables:
            console.print(table)
        console.print(found.conclusion, markup=False)
        return console.file.getvalue()

    return text


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_configure(config):
    # The process that collects what the workers say imports the classes of their warnings, Lightning's for one.
    if getattr(config.option, "numprocesses", None):
        config.torchvision_operators = torchvision_operators()


def torchvision_operators():
    """Names for torchvision's compiled operators, while this lives: the wheel is made for another build of torch."""
    try:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return None  # a build whose operators are there
    return library


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, where it can be had."""
    operators = torchvision_operators()
    yield pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=ImportError)
    del operators


@pytest.fixture(scope="session")
def timm(torchvision):
    """timm, which imports torchvision."""
    return pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)

"""The suite of broken networks in small: is the cause named first, and are healthy ones left alone?

One draw of each kind, on scikit-learn's digits as they are (8 × 8); `experiments/doctor.py` has more draws and larger
images. The first seed was taken, none was looked for.
"""

import importlib.util
import random
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import truenorm as tn
from truenorm.doctor.causes import CAUSES

pytestmark = pytest.mark.slow  # trains a network for each fault

FILE = Path(__file__).parents[1] / "experiments" / "broken_models.py"
TRAIN = 1000
HEALTHY = 4
RIGHT = 0.8
"""Share of the kinds whose cause must be named first."""


def suite():
    spec = importlib.util.spec_from_file_location("broken_models", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


broken_models = suite()
KINDS = broken_models.KINDS
DECOYS = [kind for kind in KINDS if kind.startswith("decoy")]


@cache
def images():
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.tensor(found.images, dtype=torch.float32)[:, None], torch.tensor(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    held_out = (x[TRAIN:], y[TRAIN:])
    return broken_models.Images((x[:TRAIN], y[:TRAIN]), held_out, held_out)


@cache
def examined(kind):
    """The case and what is said of it."""
    seed = list(KINDS).index(kind)
    case = KINDS[kind](images(), random.Random(seed), seed)
    data = [(case.change(x), y) for x, y in broken_models.batches(images().validation, 64)]
    return case, tn.diagnose(case.network, data, optimizer=case.optimizer)


def test_the_causes_are_those_that_have_a_name():
    for kind in KINDS:
        case, _ = examined(kind)
        assert case.causes <= {*CAUSES}
        assert (not case.causes) == (kind in DECOYS)


def test_the_right_cause_is_named_first():
    kinds = [kind for kind in KINDS if kind not in DECOYS]
    named = {kind: (examined(kind)[1].cause, examined(kind)[0].causes) for kind in kinds}
    wrong = {kind: cause for kind, (cause, right) in named.items() if cause not in right}
    assert 1 - len(wrong) / len(kinds) >= RIGHT, wrong


@pytest.mark.parametrize("kind", ["never updated", "momentum 0", "NaN, inf, negative", "track_running_stats"])
def test_what_is_certain_is_named_and_alarms(kind):
    case, found = examined(kind)
    assert found.cause in case.causes and not found.healthy


@pytest.mark.parametrize("kind", DECOYS)
def test_what_is_not_batch_norm_does_not_alarm(kind):
    _, found = examined(kind)
    assert found.healthy, found.verdict
    assert found.ruled_out


@pytest.mark.parametrize("number", range(HEALTHY))
def test_healthy_networks_do_not_alarm(number):
    seed = 50_000 + number
    network, regime = broken_models.healthy(images(), random.Random(seed), seed)
    found = tn.diagnose(network, broken_models.batches(images().validation, 64))
    assert found.healthy, (regime, found.verdict)

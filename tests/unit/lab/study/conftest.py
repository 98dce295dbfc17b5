import pytest
import torch

from truenorm.lab.study.configuration import StudyConfig
from truenorm.lab.study.study import run_study


@pytest.fixture
def no_global_draws():
    """The block neither seeds nor draws from torch's global random numbers."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


TINY = StudyConfig(
    limit=200, epochs=2, batch_sizes=(16,), widths=(16, 12), seeds=2, momenta=(0.01, 0.5), arms=("all",), lr=(0.05,)
)
"""All arms in less than a second."""


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_record(tmp_path_factory):
    """A study of every arm on digits."""
    return run_study(TINY, command="truenorm study --tiny", out=tmp_path_factory.mktemp("tiny"))

"""Several processes: the variance between them is kept."""

import pytest
import torch
from contract.sharing import PER_RANK, RANKS, merged_by, share


@pytest.fixture(scope="module")
def results(pair):
    return pair.run(merged_by)


@pytest.mark.parametrize("shares", ["equal", "unequal"])
def test_m14_repair_pools_what_all_processes_have(results, shares):
    """Every process ends with the moments of all data: mean 5, variance 26 where their shares are equal."""
    x = torch.cat([share(rank)[: PER_RANK - 256 * rank * (shares == "unequal")] for rank in range(RANKS)]).double()
    if shares == "equal":
        torch.testing.assert_close(x.var(0), torch.full((3,), 26.0).double(), rtol=0.05, atol=0)
    for found in results:
        assert found[f"{shares}: chosen"]
        mean, var = found[shares]
        torch.testing.assert_close(mean.double(), x.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(var.double(), x.var(0, correction=0), rtol=1e-5, atol=0)
        assert (found[f"{shares}: alone"] < 2).all()  # a measurement is each process's own
    for ours, theirs in zip(results[0][shares], results[1][shares], strict=True):
        assert torch.equal(ours, theirs)


def test_m14_others_keep_a_share_or_lose_the_variance_between_processes(results):
    for rank, found in enumerate(results):
        mean, var = found["update_bn"]
        assert (mean - 10 * rank).abs().max() < 0.5 and (var < 2).all()
        mean, var = found["averaged"]
        assert (mean - 5).abs().max() < 0.5 and (var < 2).all()
    mean, var = results[0]["data parallel"]  # the second process's data never counts
    assert mean.abs().max() < 0.5 and (var < 2).all()

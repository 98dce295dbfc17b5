"""Several processes: the variance between them is kept. The file is also what each process runs."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import update_bn

import truenorm as tn

RANKS, PER_RANK = 2, 1024


def share(rank):
    """N(0, 1) in one process, N(10, 1) in the other: mean 5, variance 26."""
    return 10.0 * rank + torch.randn(PER_RANK, 3, generator=torch.Generator().manual_seed(rank))


def near_0_and_1(output, batch):
    return -(output.mean().square() + (output.var() - 1).square())


def work(rank, folder):
    """What one process does; what it found goes into a file."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS, timeout=limit)
    try:
        x = share(rank)
        found = {}
        net = nn.Sequential(nn.BatchNorm1d(3))
        update_bn(x.split(64), net)
        found["update_bn"] = net[0].running_mean.clone(), net[0].running_var.clone()
        for buffer in (net[0].running_mean, net[0].running_var):  # what timm's distribute_bn(reduce=True) does
            dist.all_reduce(buffer)
            buffer /= RANKS
        found["averaged"] = net[0].running_mean.clone(), net[0].running_var.clone()
        net = nn.Sequential(nn.BatchNorm1d(3))
        parallel = nn.parallel.DistributedDataParallel(net)  # broadcast_buffers=True
        for batch in x.repeat(4, 1).split(64):
            parallel(batch).sum().backward()
        found["data parallel"] = net[0].running_mean.clone(), net[0].running_var.clone()
        # Unequal shares: the second process has three quarters of what the first one has, and a mean of its own.
        for name, batches in {"equal": x.split(64), "unequal": x[: PER_RANK - 256 * rank].split(64)}.items():
            net = nn.Sequential(nn.BatchNorm1d(3))
            done = tn.repair(net, batches, held_out=batches, score=near_0_and_1)
            found[name] = net[0].running_mean.clone(), net[0].running_var.clone()
            found[f"{name}: chosen"] = done.chosen
            found[f"{name}: alone"] = tn.measure(net, batches)["0"].var
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    running = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(RANKS)]
    assert [process.wait(120) for process in running] == [0] * RANKS
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


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


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])

"""What each of two processes measures, when their data differ."""

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


def merged_by(rank):
    """What one process does, by peers and by ours."""
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
    return found

"""What each process of a data-parallel run does in the tests."""

import copy

import nets
import torch
import torch.distributed as dist
from processes import SIZE
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import truenorm as tn


def trained_twice(rank):
    torch.manual_seed(3)
    plain = nets.plain()
    data = nets.batches(40, size=8 + 2 * rank, seed=rank + 1)  # the ranks' batches differ in size
    found = {}
    for how in ("unwatched", "watched", "inside"):
        model = copy.deepcopy(plain)
        parallel = DistributedDataParallel(model)
        if how == "unwatched":
            nets.train(parallel, data)
        else:
            seen = {name: [] for name in ("bn1", "bn2")}
            handles = [
                model.get_submodule(name).register_forward_pre_hook(lambda _, x, kept=kept: kept.append(x[0].detach()))
                for name, kept in seen.items()
            ]
            with tn.watch(
                parallel if how == "watched" else model, (tn.rules.Population(), tn.rules.Static((0.1,)))
            ) as w:
                nets.train(parallel, data)
            for handle in handles:
                handle.remove()
            found["moments"] = {n: (m.mean, m.var, m.count) for n, m in w["population"].items()}
            found["static"] = {n: (m.mean, m.var) for n, m in w["static-0.1"].items()}
            found["seen"] = seen
        found[how] = nets.bits(model)
    if rank == 0:  # alone: a pass is no collective operation
        parallel.eval()
        measured = tn.measure(parallel, data[:3], flow="eval")
        found["measured"] = measured == tn.measure(model, data[:3], flow="eval")
        tn.measure(parallel.train(), data[:3])
    dist.barrier()
    return found


def followed_momenta(rank):
    """A layer that chooses its momentum, in DistributedDataParallel, and on rank 0's batches alone; weights stand still."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), tn.nn.BatchNorm1d(6, tracking="dynamic"), nn.ReLU(), nn.Linear(6, 2))
    alone = copy.deepcopy(net)
    parallel = DistributedDataParallel(net)
    for step in range(30):
        batches = [
            torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * other + step)) + other
            for other in range(SIZE)
        ]
        parallel(batches[rank]).sum().backward()
        alone(batches[0])
    return {
        "after": dict(net.named_buffers()),
        "alone": dict(alone.named_buffers()),
        "momentum": (net[1].chosen_momentum, alone[1].chosen_momentum),
    }

"""What each process of a data-parallel run does in the tests."""

import copy
import os
from datetime import timedelta

import nets
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import truenorm as tn


def work(rank, size, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(_trained_twice(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _trained_twice(rank):
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

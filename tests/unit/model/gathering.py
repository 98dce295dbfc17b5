"""What each of two processes measures, gathers and repairs."""

import nets
import torch
from torch import nn

import truenorm as tn
from truenorm.model.gather import gathered, num_processes
from truenorm.model.measure import joint_estimates

NAMES = ("bn1", "bn2", "rare")
NUM_BATCHES = (7, 3)


class Rare(nn.Module):
    """Its third batch norm is called on the second rank alone, its fourth on none."""

    def __init__(self, rank):
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.bn1, self.bn2 = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.rare, self.never, self.rank = nn.BatchNorm1d(6), nn.BatchNorm1d(6), rank

    def forward(self, x):
        h = self.bn2(torch.relu(self.bn1(self.fc(x))))
        return self.rare(h + 1) if self.rank else h


def batches_of(rank):
    """Uneven in size and number, and of two populations."""
    return nets.batches(NUM_BATCHES[rank], size=8 + 3 * rank, last=3 + rank, seed=rank + 1, step=0.3 * (rank + 1))


def size_of(output, batch):
    """The last batch norm's output is of size 1 if statistics are right, larger if they are those of the start."""
    return -output.square().mean(1)


def found_by(rank):
    model, data = Rare(rank), batches_of(rank)
    parallel = nn.parallel.DistributedDataParallel(model)
    joint, within = joint_estimates(parallel, data)
    sequential = tn.measure(parallel, data, flow="sequential")
    merged = gathered(parallel, {"joint": joint, "within": within, "sequential": sequential})
    again = gathered(model, {"within": within})

    seen = {name: [] for name in NAMES}
    for name, kept in seen.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, kept=kept: kept.append(x[0].detach()))
    with torch.no_grad():
        for images, _ in data:
            model.train()(images)
    repaired = Rare(rank)
    done = tn.repair(repaired, [(x * 3 + 3, y) for x, y in data] * 4, score=size_of)
    return {
        "merged": {how: plain(statistics) for how, statistics in merged.items()},
        "again": plain(again["within"]),
        "own": {"joint": plain(joint), "within": plain(within)},
        "provenance": {how: statistics.provenance.to_dict() for how, statistics in merged.items()},
        "seen": seen,
        "processes": num_processes(),
        "repair": (done.chosen, {how: dict(scores) for how, scores in done.scores.items()}),
        "repaired": nets.bits(repaired),
    }


def plain(statistics):
    return {name: (m.mean, m.var, m.count, m.design_effect) for name, m in statistics.items()}

"""What watching costs: steps of the same network, plain and watched, in turn.

Run: python benchmarks/watching.py [--pairs 40] [--out benchmarks/results/watching.json]

Both sides train copies of one network on the same batches, a stretch of steps each, plain first and watched
first by turns; process time; the figure is the median of the ratios of neighbours. Pairs of plain against
plain are timed in the same way: they show what the machine's noise does to a ratio of 1.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.record import installed_versions, this_machine
from truenorm.study.networks import cnn, mlp

SWEEP = (tn.rules.Static(),)
STREAM = (
    tn.rules.Static(),
    tn.rules.Cumulative(),
    tn.rules.Pooled(tn.rules.SWEEP),
    tn.rules.Population("last-epoch", epochs=True),
    tn.rules.Adaptive(),
    tn.rules.Online(),
    tn.rules.Switched("dmbn-switch"),
)


class Side:
    """One of the two: a network, its optimizer and, maybe, its watch."""

    def __init__(self, network: nn.Module, rules: tuple[tn.rules.Rule, ...]) -> None:
        self.network = copy.deepcopy(network).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)
        if rules:
            tn.watch(self.network, rules).__enter__()

    def seconds(self, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
        """Process time of so many steps."""
        start = time.process_time()
        for _ in range(steps):
            loss = F.cross_entropy(self.network(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return time.process_time() - start


def ratios(network: nn.Module, rules: tuple[tn.rules.Rule, ...], *, batch: int, steps: int, pairs: int) -> list[float]:
    """Watched over plain, pair by pair."""
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    plain, watched = Side(network, ()), Side(network, rules)
    found: list[float] = []
    for pair in range(pairs + 2):
        order = (plain, watched) if pair % 2 else (watched, plain)
        taken = {id(side): side.seconds(images, labels, steps) for side in order}
        if pair >= 2:  # the first pairs warm up
            found.append(taken[id(watched)] / taken[id(plain)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="one thread: the other core does not disturb")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    networks = {
        "mlp 500-300, batch 64": (mlp((1, 28, 28), 10, widths=(500, 300)), 64, 32),
        "mlp 6x128, batch 4": (mlp((1, 28, 28), 10, widths=(128,) * 6), 4, 64),
        "cnn, batch 64": (cnn((1, 28, 28), 10), 64, 16),
    }
    results = []
    for name, (network, batch, steps) in networks.items():
        for what, rules in (("plain (noise)", ()), ("16 momenta", SWEEP), ("every stream rule", STREAM)):
            found = ratios(network, rules, batch=batch, steps=steps, pairs=options.pairs)
            quartiles = statistics.quantiles(found, n=4)
            print(f"{name:24} {what:20} median {quartiles[1]:.3f}  quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}")
            results.append({"network": name, "watched": what, "steps": steps, "ratios": [round(r, 4) for r in found]})
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"threads": options.threads, "machine": this_machine(), "versions": installed_versions("torch")}
        lines = ",\n  ".join(json.dumps(result) for result in results)
        options.out.write_text(f'{{"about": {json.dumps(about)},\n "results": [\n  {lines}\n ]}}\n')


if __name__ == "__main__":
    main()

"""Two sides in one run, in turn; the figure is the median of the ratios of neighbours."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from truenorm.record import installed_versions, this_machine


def arguments(description: str, *, pairs: int) -> argparse.Namespace:
    """The options every benchmark has; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--threads", type=int, default=1, help="one: what runs on the other core disturbs less")
    parser.add_argument("--out", type=Path, help="write every ratio there, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def process_seconds(side: Callable[[], None]) -> float:
    """Process time of a side."""
    start = time.process_time()
    side()
    return time.process_time() - start


def ratios(
    numerator: Callable[[], None],
    denominator: Callable[[], None],
    *,
    pairs: int,
    warm_up: int = 2,
    seconds: Callable[[Callable[[], None]], float] = process_seconds,
) -> list[float]:
    """Time of the first over that of the second, pair by pair, order alternated."""
    found: list[float] = []
    for pair in range(pairs + warm_up):
        first, second = (numerator, denominator) if pair % 2 else (denominator, numerator)
        taken = {first: seconds(first), second: seconds(second)}
        if pair >= warm_up:
            found.append(taken[numerator] / taken[denominator])
    return found


def say(name: str, found: list[float]) -> None:
    """One line: median and quartiles."""
    low, middle, high = statistics.quantiles(found, n=4)
    print(f"{name:44} median {middle:.3f}  quartiles {low:.3f} to {high:.3f}  ({len(found)} pairs)", flush=True)


def save(results: dict[str, list[float]], options: argparse.Namespace, **about: Any) -> None:
    """Every ratio, the machine and the versions."""
    if options.out is None:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    head = {"threads": options.threads, "machine": this_machine(), "versions": installed_versions("torch"), **about}
    lines = ",\n  ".join(
        json.dumps({"what": name, "median": round(statistics.median(found), 4), "ratios": [round(r, 4) for r in found]})
        for name, found in results.items()
    )
    options.out.write_text(f'{{"about": {json.dumps(head)},\n "results": [\n  {lines}\n ]}}\n')

"""What naming `truenorm.diagnose` for the first time costs over importing torch: processes of their own, in turn."""

import os
import subprocess
import sys
from functools import partial

from pairing import arguments, ratios, save, say

NAMED = "import truenorm as tn; tn.diagnose"
TORCH = "import torch"


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def seconds(side) -> float:
    """User and system time of the processes that the side starts."""
    before = os.times()
    side()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    options = arguments(__doc__.splitlines()[0], pairs=20)
    results: dict[str, list[float]] = {}
    for name, code in (("torch imported, over the same", TORCH), ("tn.diagnose named, over torch imported", NAMED)):
        found = results[name] = ratios(
            partial(run, code), partial(run, TORCH), pairs=options.pairs, warm_up=2, seconds=seconds
        )
        say(name, found)
    save(results, options, side="process time of a fresh process that names tn.diagnose over one that imports torch")


if __name__ == "__main__":
    main()

"""Our kernels on a GPU: are they right, how near the memory's limit are they, and what is a training step with them?

Runs unattended and ends by itself. Every section is a process of its own (correctness and compiling several), so that
an error of the device costs no more than the case it came up in; rows go one by one into FOLDER/gpu.jsonl, tables into
FOLDER/summary.txt and FOLDER/performance.md, what else is said into FOLDER/log.txt.
"""

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]  # truenorm need not be installed


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--e2e", action="store_true", help="training steps before the cases that only complete")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder for rows and tables")
    parser.add_argument("--deadline", type=float, default=450, help="seconds after which it ends, with what it has")
    parser.add_argument("--only", help="sections, with commas between: prepare, large, kernels, rest, endtoend")
    parser.add_argument(
        "--rehearse", action="store_true", help="on the CPU, tiny, torch's kernels for ours: tries the program"
    )
    parser.add_argument("--tables", action="store_true", help="only the tables anew, from the rows in the folder")
    for hidden, kind in (("--worker", str), ("--index", int), ("--of", int), ("--until", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    options = parsed()
    device = "cpu" if options.rehearse else "cuda"
    os.environ["TRUENORM_KERNELS"] = "triton"  # layers take the kernels only where they are asked for
    if options.worker:
        return worker(options, device)
    until = time.time() + options.deadline  # what follows takes seconds by itself

    import torch

    if device == "cuda" and not options.tables and not torch.cuda.is_available():
        print("This measures kernels on an NVIDIA GPU, and torch sees none here.", file=sys.stderr)
        return 2
    from on_gpu.machine import environment
    from on_gpu.record import Deadline, Record, first_line
    from on_gpu.sections import measure, write

    if options.tables:
        print(write(Record(options.out / "gpu.jsonl")))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for earlier in ("gpu.jsonl", "log.txt"):
        (options.out / earlier).unlink(missing_ok=True)
    record = Record(options.out / "gpu.jsonl")
    try:
        record.add(environment(device))
    except Exception as error:  # what cannot be read off the machine stops no measuring
        record.add({"kind": "environment", "name": f"unknown machine ({first_line(error)})"})
    command = [sys.executable, str(HERE), "--out", str(options.out), *(["--rehearse"] if options.rehearse else [])]
    only = options.only.split(",") if options.only else None
    measure(command, record, Deadline(until), early_endtoend=options.e2e, only=only, cores=os.cpu_count() or 4)
    return 0


def worker(options: argparse.Namespace, device: str) -> int:
    """One of the processes."""
    import faulthandler

    faulthandler.enable()
    # Stuck on a device, a process does not even hear that it is to end.
    faulthandler.dump_traceback_later(max(1.0, options.until - time.time() + 15), exit=True)
    from on_gpu.jobs import Bench
    from on_gpu.record import Deadline, Record
    from on_gpu.workers import run_worker

    index, of = options.index or 0, options.of or 1
    name = f"{options.worker} {index}"
    bench = Bench.on(device, Record(options.out / "gpu.jsonl"), Deadline(options.until), name)
    run_worker(options.worker, bench, index=index, of=of)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many digits our kernels and torch's keep, against float64, near zero and far from it.

On a GPU both run there; on a CPU ours are interpreted, and torch's are those for CPUs.
"""

import argparse
import io
import os
import shlex
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

from rich.console import Console

from truenorm.files import write_whole
from truenorm.kernels import BACKENDS, Affine
from truenorm.record import Measurement, Record, installed_versions, this_machine
from truenorm.show import Table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAR = (0.0, 10.0, 1e3, 1e4)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NAMES = {"triton": "ours", "aten": "torch's"}
QUANTITIES = ("y", "variance", "dx", "dweight", "dbias")
SIZE = (64, 8, 14, 14)


def results(backend: str, dtype: torch.dtype, given: list[torch.Tensor], dy: torch.Tensor) -> list[torch.Tensor]:
    """What `QUANTITIES` names."""
    x, weight, bias = [value.detach().to(dtype).requires_grad_() for value in given]
    y, _, var = BACKENDS[backend].batch_norm(x, Affine(weight, bias))
    y.backward(dy.to(dtype))
    return [y.detach(), var, x.grad, weight.grad, bias.grad]


def measured(layout: str, far: float, seeds: int) -> list[Measurement]:
    """The largest error of all seeds, in parts of the quantity's root mean square."""
    worst: dict[tuple[str, str], float] = {}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(SIZE, generator=generator, dtype=torch.float64).add(far)
        weight, bias = torch.rand(SIZE[1], generator=generator) + 0.5, torch.randn(SIZE[1], generator=generator)
        given = [value.to(DEVICE, torch.float32) for value in (x, weight, bias)]
        given[0] = given[0].contiguous(memory_format=LAYOUTS[layout])
        dy = torch.randn(SIZE, generator=generator).to(DEVICE)
        true = results("reference", torch.float64, given, dy)
        for backend in NAMES:
            for name, got, exact in zip(QUANTITIES, results(backend, torch.float32, given, dy), true, strict=True):
                off = ((got.double() - exact).abs().max() / exact.square().mean().sqrt()).item()
                worst[backend, name] = max(off, worst.get((backend, name), 0.0))
    trial = trial_name(layout, far)
    return [Measurement(trial, backend, None, name, off, None, seeds) for (backend, name), off in worst.items()]


def trial_name(layout: str, far: float) -> str:
    return f"{layout}, mean {far:g} standard deviations"


def printed(record: Record) -> str:
    """The table as text, from the record alone."""
    found = {(row.trial, row.arm, row.metric): row.value for row in record.rows}
    table = Table(
        title="Largest error against float64, in parts of the root mean square of what is computed; float32",
        columns=("layout", "mean over std", "kernels", *QUANTITIES),
        rows=tuple(
            (layout, f"{far:g}", shown, *(f"{found[trial_name(layout, far), arm, name]:.1e}" for name in QUANTITIES))
            for layout in record.configuration["layouts"]
            for far in record.configuration["far"]
            for arm, shown in NAMES.items()
        ),
        notes=(f"{record.configuration['seeds']} draws of {SIZE}; {record.configuration['where']}.",),
    )
    Console(file=(text := io.StringIO()), width=120, highlight=False).print(table)
    return text.getvalue()


def main() -> None:
    """Draw, compute, and write the record and its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "on a CPU, ours interpreted, torch's for CPUs"
    record = Record(
        command=shlex.join(["python", *sys.argv]),
        rows=tuple(row for layout in LAYOUTS for far in FAR for row in measured(layout, far, options.seeds)),
        configuration={"layouts": list(LAYOUTS), "far": list(FAR), "seeds": options.seeds, "where": where},
        trials={trial_name(layout, far): {"layout": layout, "far": far} for layout in LAYOUTS for far in FAR},
        versions=installed_versions("truenorm", "torch", "triton"),
        machine=this_machine(),
    )
    record.save(options.out / "record.json")
    write_whole(options.out / "table.txt", printed(record).encode())
    print(printed(record), end="")


if __name__ == "__main__":
    main()

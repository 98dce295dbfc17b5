"""What the GPU's assembler makes of the kernels, without a GPU: nothing spilled, and wide loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.backends import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is for Linux"),
    pytest.mark.slow,  # compiles every kernel for Hopper
]

REGISTERS = {
    "stats": 64,
    "finalize": 168,
    "apply": 100,
    "bwd_reduce": 120,
    "bwd_finalize": 80,
    "bwd_apply": 104,
}
"""About a tenth above what the compilers of Triton 3.6 and 3.7 give; where nothing is wide, addresses take more."""

NARROW = "channels-last, C = 19"


@pytest.fixture(scope="module")
def kernels():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compiling.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, check=True, timeout=290, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_there_in_every_layout(kernels):
    names = {kernel["kernel"] for kernel in kernels}
    assert names == set(REGISTERS)
    assert {kernel["layout"] for kernel in kernels if kernel["kernel"] == "apply"} == {"ROWS", "FLAT", "PLANES"}


def test_nothing_is_spilled(kernels):
    for kernel in kernels:
        spilled = [name for name in kernel["instructions"] if name.startswith(("LDL", "STL"))]
        assert (kernel["stack"], kernel["local"], spilled) == (0, 0, []), kernel


def test_registers_leave_room_for_other_programs(kernels):
    for kernel in kernels:
        most = REGISTERS[kernel["kernel"]] * (1.6 if kernel["case"] == NARROW else 1)
        assert kernel["reg"] <= most, kernel


def test_tensors_are_read_and_written_16_bytes_at_a_time(kernels):
    for kernel in kernels:
        if kernel["kernel"].endswith("finalize") or kernel["case"] == NARROW:
            continue
        loads, stores = kernel["tensors"]
        counts = kernel["instructions"]
        # A tile of 2,048 on 128 threads: 16 elements of each tensor a thread and step; `stats` begins with one.
        bytes_each = 16 * (4 if kernel["dtype"] == "float32" else 2)
        times = 2 if kernel["kernel"] == "stats" else 1
        assert counts.get("LDG.128", 0) == loads * times * bytes_each // 16, kernel
        assert counts.get("STG.128", 0) == stores * bytes_each // 16, kernel
        # Single bytes and words: the bits alone.
        assert sum(number for name, number in counts.items() if name.endswith(("U8", "U16"))) <= 1, kernel


def test_sums_are_added_in_an_order(kernels):
    for kernel in kernels:
        assert not [name for name in kernel["instructions"] if name.startswith(("RED", "ATOM"))], kernel

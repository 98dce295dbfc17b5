"""Compile for a Hopper GPU what the stages would launch, without a GPU, and say what became of it.

    python compiling.py > launches.jsonl

One line per kernel and variant: case, layout, registers, stack and local memory in bytes, how many large tensors it
reads and writes, and counts of instructions. Run it in a process of its own, without TRITON_INTERPRET. Tensors are on
the meta device: they have shapes, and no values.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from truenorm.kernels.triton import stages
from truenorm.kernels.triton.device import tile

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.int64: "*i64",
}
CASES = {
    "channels-last": ((32, 24, 28, 28), True),  # a multiple of 8, and not of 16
    "channels-last, C = 19": ((32, 19, 28, 28), True),
    "planes, L = 3136": ((256, 64, 56, 56), False),
    "flat, L = 49": ((256, 512, 7, 7), False),
}
VARIANTS = ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, True))
"""Type, and is there a residual?"""


def passes(x, activation, with_residual):
    """Every launch of a training step and of one with frozen statistics."""
    channels = x.shape[1]
    vector = x.new_empty(channels, dtype=torch.float32)
    count = x.new_empty((), dtype=torch.int64)
    residual = torch.empty_like(x) if with_residual else None
    bits_kept = with_residual and activation in stages.SIGN_DECIDES
    partials, counts = stages.measured(x, count)
    running = {
        "running_mean": vector,
        "running_var": vector,
        "num_batches_tracked": count,
        "momentum": x.new_empty((), dtype=torch.float32),
    }
    mean, mean_lo, var = stages.combined(partials, counts, channels, **running, pooled=True)
    named = {"activation": activation, "eps": 1e-5}
    y, bits = stages.applied(x, mean, mean_lo, var, vector, vector, residual, **named, keep_bits=bits_kept)
    stages.applied(x, vector, None, vector, vector, vector, residual, **named, keep_bits=False)
    asked = {"with_sums": True, "with_residual": bits_kept, "with_dx": False}
    sums, g, _ = stages.reduced(y, x, bits, mean, mean_lo, var, vector, vector, **named, **asked)
    _, _, means = stages.parameter_gradients(sums, var, vector, vector, eps=1e-5, count=x.numel() // channels)
    known = {"activation": "identity", "eps": 1e-5} if bits_kept else named
    stages.input_gradient(y if g is None else g, x, mean, mean_lo, var, vector, vector, means, **known)
    stages.reduced(y, x, bits, vector, None, vector, vector, vector, **named, **(asked | {"with_dx": True}))


def launches(case, dtype, activation, with_residual):
    shape, channels_last = CASES[case]
    x = torch.empty(shape, dtype=dtype, device="meta")
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    seen = []
    with mock.patch.object(
        stages, "launch", lambda kernel, grid, *given, **options: seen.append((kernel, given, options))
    ):
        passes(x, activation, with_residual)
    return seen


def compiled(kernel, given, options):
    options = dict(options)
    launch_options = {name: options.pop(name) for name in ("num_warps",) if name in options}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value = given[index] if index < len(given) else options[name]
        if index >= len(given) or value is None:
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
    source = ASTSource(kernel, signature, constants, attributes)
    return source.hash(), lambda: triton.compile(source, target=TARGET, options=launch_options)


def disassembled(binary):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file], capture_output=True, text=True, check=True
        ).stdout
        code = subprocess.run([TOOLS / "nvdisasm", "-c", file], capture_output=True, text=True, check=True).stdout
    used = {name.lower(): int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
    # The instruction's name, with its predicate and operands cut off.
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code, re.MULTILINE)
    counts = {}
    for name in names:
        if name.startswith(("LDG", "STG", "LDL", "STL", "RED", "ATOM")):
            width = next((part for part in name.split(".") if part in ("128", "64", "U16", "U8", "S8", "S16")), "32")
            counts[f"{name.split('.')[0]}.{width}"] = counts.get(f"{name.split('.')[0]}.{width}", 0) + 1
    return used, counts


def tensors(kernel, given):
    """How many large tensors a launch reads, and writes."""
    written = {"y", "dx", "dresidual"}
    large = [
        name
        for name, value in zip(kernel.arg_names, given, strict=False)
        if isinstance(value, torch.Tensor) and value.ndim > 2 and name not in ("partials", "sums")
    ]
    stores = sum(name in written for name in large)
    return len(large) - stores, stores


def main():
    done = set()
    layouts = {value.value: name for name, value in vars(tile).items() if name in ("ROWS", "FLAT", "PLANES")}
    for case in CASES:
        for dtype, with_residual in VARIANTS:
            for kernel, given, options in launches(case, dtype, "relu", with_residual):
                key, compile_it = compiled(kernel, given, options)
                if key in done:
                    continue
                done.add(key)
                used, counts = disassembled(compile_it().asm["cubin"])
                row = {
                    "case": case,
                    "layout": layouts[options["LAYOUT"]] if "LAYOUT" in options else "",
                    "dtype": str(dtype).removeprefix("torch."),
                    "kernel": kernel.__name__,
                    "tensors": tensors(kernel, given),
                    **used,
                    "instructions": counts,
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""What the machine is, and what its card reports: only read."""

import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec

import torch

from on_gpu.record import Row, first_line
from truenorm.kernels import BACKENDS


def clocks(when: str) -> Row:
    """What nvidia-smi says of the card, which is only read."""
    asked = "clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used,clocks_event_reasons.active"
    return {"kind": "clocks", "when": when, "asked": asked, "answer": nvidia_smi(asked)}


def nvidia_smi(asked: str) -> str:
    """The answer, or why there is none."""
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return first_line(error)
    return (answer.stdout or answer.stderr).strip()[:300]


def environment(device: str) -> Row:
    """Machine and versions: the first row."""
    row: Row = {
        "kind": "environment",
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "backends": list(BACKENDS),
    }
    if device != "cuda":
        return row | {"name": "rehearsal on the CPU: the figures say nothing"}
    seen = torch.cuda.get_device_properties(0)
    asked = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"
    return row | {
        "name": seen.name,
        "multiprocessors": seen.multi_processor_count,
        "memory": seen.total_memory,
        "l2": getattr(seen, "L2_cache_size", None),
        "cudnn": torch.backends.cudnn.version(),
        "asked": asked,
        "answer": nvidia_smi(asked),
    }

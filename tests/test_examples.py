"""The examples run as they stand, in a fresh process, and say what they are there to say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def said_by(name: str, *arguments: Path) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error:::__main__", EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "convolution.py",
        "dense_with_dropout.py",
        "too_few_steps.py",
        "own_loop.py",
        "shift_of_a_network.py",
    }


@pytest.mark.slow
def test_convolution():
    said = said_by("convolution.py")
    assert "tracking='pooled'" in said
    assert "(32, 16, 8, 8) (N, C, H, W) → (16,)" in said
    assert all(float(off) < 1e-5 for off in re.search(r"mean is off by (\S+), the variance by (\S+)", said).groups())
    assert float(re.search(r"test accuracy ([\d.]+) % of 397 images", said)[1]) > 95
    assert float(re.search(r"alone or among 397: logits differ by at most (\S+)", said)[1]) < 1e-4
    assert said.rstrip().endswith("and back: torch.nn.modules.batchnorm")


@pytest.mark.slow
def test_dense_with_dropout():
    said = said_by("dense_with_dropout.py")
    rows = re.findall(r"^ +(\w+) +([A-Z][\w, ]*?\w) +\(N, (\d+)\) +([\d,]+) +([\d,]+) *$", said, re.M)
    assert rows == [
        ("dense", "Linear", "64", "1,344", "1,344"),
        ("batch_norm", "BatchNorm1d", "64", "256", "128"),
        ("relu", "ReLU", "64", "0", "0"),
        ("dropout", "Dropout", "64", "0", "0"),
        ("dense_1", "Linear", "32", "2,080", "2,080"),
        ("batch_norm_1", "BatchNorm1d", "32", "128", "64"),
        ("relu_1", "ReLU", "32", "0", "0"),
        ("dropout_1", "Dropout", "32", "0", "0"),
        ("dense_2", "Linear, Sigmoid", "1", "33", "33"),
    ]
    assert "3,841 parameters: 3,649 trainable, 192 not trainable" in said
    assert float(re.search(r"test accuracy ([\d.]+) %", said)[1]) > 90
    assert float(re.search(r"differ by at most (\S+)", said)[1]) < 1e-4


@pytest.mark.slow
def test_own_loop():
    said = said_by("own_loop.py")
    accuracy = dict(re.findall(r"^(.*?)\s+([\d.]+) %", said, re.M))
    assert list(accuracy) == [
        "as trained (momentum 0.1)",
        "best momentum of each layer",
        "the same, pooled",
        "adaptive, no pass over data",
        "the population's own",
    ]
    assert float(accuracy["adaptive, no pass over data"]) > 50
    shifts = dict(re.findall(r"^(.*?)\s+[\d.]+ %\s+shift ([\d.]+)", said, re.M))
    assert float(shifts["the population's own"]) == 0
    assert float(shifts["the same, pooled"]) < float(shifts["best momentum of each layer"])
    assert said.rstrip().splitlines()[-1].startswith("assigned: {'1': ")


@pytest.mark.slow
def test_shift_of_a_network():
    said = said_by("shift_of_a_network.py")
    assert said.count("estimation shift, in σ of the population") == 2 + 1
    assert "<table><caption>" in said
    layers = re.search(r"\{'1': ([\d.]+), '4': ([\d.]+)\}", said)
    assert layers is not None
    assert all(float(shift) > 0.1 for shift in layers.groups())  # so short a training leaves a shift to see


def test_too_few_steps_is_what_the_readme_shows(tmp_path):
    """The README's first minute: the example, the diagnosis, the repair."""
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert said_by("too_few_steps.py", tmp_path / "best.pt").split("\n")[:2] == [
        "train(): 98.8% right",
        "eval(): 31.5% right",
    ]
    example = EXAMPLES / "too_few_steps.py"
    common = ["--model", f"{example}:make", "--checkpoint", tmp_path / "best.pt"]
    found = command("diagnose", *common, "--data", f"{example}:held_out")
    assert found.returncode == 3
    cause = re.search(r"^cause +(.*?)\n\S", found.stdout, re.M | re.S)[1]
    assert re.sub(r"\s+", " ", cause) in re.sub(r"\s+", " ", readme)
    shown = [line.rstrip() for line in found.stdout.splitlines() if " σ " in line or "± 0." in line]
    assert len(shown) >= 5 and [line for line in shown if line not in readme] == []
    mended = command("repair", *common, "--data", f"{example}:training", "--out", tmp_path / "mended.pt")
    assert mended.returncode == 0 and (tmp_path / "mended.pt").exists()
    assert [line for line in mended.stdout.splitlines() if line.startswith("assigned") and line not in readme] == []
    healthy = command("diagnose", *common[:2], "--checkpoint", tmp_path / "mended.pt", "--data", f"{example}:held_out")
    assert healthy.returncode == 0


def command(*arguments):
    return subprocess.run(
        [Path(sys.executable).parent / "truenorm", *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

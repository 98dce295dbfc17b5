"""The examples run as they stand, in a fresh process, and find what they are there to show."""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "convolution.py",
        "dense_with_dropout.py",
        "too_few_steps.py",
        "own_loop.py",
        "shift_of_a_network.py",
    }


def found_by(name):
    """What an example finds; run as a script it prints just that, and nothing goes wrong."""
    example = runpy.run_path(str(EXAMPLES / name))
    found = example["run"]()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        example["show"](*found) if type(found) is tuple else example["show"](found)
    finished = process(sys.executable, "-W", "error:::__main__", EXAMPLES / name)
    assert (finished.returncode, finished.stdout) == (0, shown.getvalue()), finished.stderr
    return found


def process(*command, **environment):
    """Ended, with what it printed."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.slow
def test_convolution():
    found = found_by("convolution.py")
    assert found.layer == snapshot(
        "BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, tracking='pooled')"
    )
    assert (found.maps, found.statistics) == ((32, 16, 8, 8), (16,))
    assert found.mean_off < 1e-5 and found.var_off < 1e-5
    assert found.accuracy > 0.95 and found.images == 397
    assert found.alone_off < 1e-4
    assert found.back is torch.nn.BatchNorm2d


@pytest.mark.slow
def test_dense_with_dropout():
    found = found_by("dense_with_dropout.py")
    assert [tuple(layer) for layer in found.layers] == [
        ("dense", "Linear", 64, 1344, 1344),
        ("batch_norm", "BatchNorm1d", 64, 256, 128),
        ("relu", "ReLU", 64, 0, 0),
        ("dropout", "Dropout", 64, 0, 0),
        ("dense_1", "Linear", 32, 2080, 2080),
        ("batch_norm_1", "BatchNorm1d", 32, 128, 64),
        ("relu_1", "ReLU", 32, 0, 0),
        ("dropout_1", "Dropout", 32, 0, 0),
        ("dense_2", "Linear, Sigmoid", 1, 33, 33),
    ]
    assert (sum(layer.parameters for layer in found.layers), sum(layer.trainable for layer in found.layers)) == (
        3841,
        3649,
    )
    assert found.accuracy > 0.9
    assert found.alone_off < 1e-4


@pytest.mark.slow
def test_own_loop():
    found = found_by("own_loop.py")
    assert list(found.others) == [
        "best momentum of each layer",
        "the same, pooled",
        "adaptive, no pass over data",
        "the population's own",
    ]
    assert 0 < found.trained < 1
    accuracy = {name: right for name, (right, _) in found.others.items()}
    shift = {name: off for name, (_, off) in found.others.items()}
    assert accuracy["adaptive, no pass over data"] > 0.5
    assert shift["the population's own"] == 0
    assert shift["the same, pooled"] < shift["best momentum of each layer"]
    assert list(found.assigned) == ["1", "4", "7", "10", "13", "16"]


@pytest.mark.slow
def test_shift_of_a_network():
    report, arriving = found_by("shift_of_a_network.py")
    for found in (report, arriving):
        assert {layer.layer for layer in found.layers} == {"1", "4"}
        assert all(layer.shift > 0.1 for layer in found.layers)  # so short a training leaves a shift to see


def transcripts(section):
    """The blocks of a section of README.md."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)


def test_too_few_steps_is_what_the_readme_shows(tmp_path, monkeypatch):
    """The README's first minute: its commands, word by word, print what is shown below them."""
    first, diagnose, diagnosis, repair, repaired, *_ = transcripts("First minute")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    terminal = {"COLUMNS": "107", "LINES": "50", "TERM": "dumb", "TTY_COMPATIBLE": "1"}
    terminal["PYTHONWARNINGS"] = "error:::__main__"

    def run(line):
        name, *words = shlex.split(line)
        ended = process(Path(sys.executable).parent / name, *words, **terminal)
        return ended.returncode, "".join(f"{line.rstrip()}\n" for line in ended.stdout.splitlines())

    assert run(first.splitlines()[-1]) == snapshot(
        (
            0,
            """\
train(): 98.8% right
eval(): 31.5% right
""",
        )
    )
    assert run(diagnose) == (3, diagnosis)
    code, printed = run(repair)
    assert code == 0 and (tmp_path / "mended.pt").exists()
    assert printed.splitlines()[-3:] == repaired.splitlines()  # its table is left out there
    assert run(diagnose.replace("best.pt", "mended.pt"))[0] == 0


def test_too_few_steps_are_right_in_train_and_wrong_in_eval(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "too_few_steps.py"))
    example["train"](tmp_path / "best.pt")
    assert example["right"](tmp_path / "best.pt", "train") > 0.95
    assert example["right"](tmp_path / "best.pt", "eval") < 0.5

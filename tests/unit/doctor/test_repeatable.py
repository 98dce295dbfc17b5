"""The same diagnosis in two processes gives the same record to the bit, and draws nothing from what is the caller's."""

import json
import os
import subprocess
import sys

import patients
import pytest
import repeating
import torch

PROJECT = """
import sys

sys.path.insert(0, {here!r})
import patients
from repeating import loader

make = patients.mlp


def shuffled():
    return loader(None)
"""


@pytest.mark.parametrize("kind", repeating.BROKEN)
@pytest.mark.parametrize("owned", [True, False], ids=["own generator", "torch's generator"])
def test_two_processes_say_the_same(pair, kind, owned):
    (first, kept), (second, too) = pair.run(repeating.diagnosed, kind, owned)
    assert first == second
    assert kept and too
    assert kind in json.loads(first)["trials"]["diagnosis"]["cause"]


def test_another_order_gives_another_record():
    """The order of a shuffling loader is part of what is said: it shows in the last digits."""
    net, _, _ = patients.lag()
    states = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    records = [repeating.tn.diagnose(net, repeating.loader(generator)).record().dumps() for generator in states]
    assert records[0] != records[1]


def test_two_commands_say_the_same(tmp_path):
    net, _, _ = patients.lag()
    found = []
    for number in ("1", "2"):
        folder = tmp_path / number
        folder.mkdir()
        (folder / "project.py").write_text(PROJECT.format(here=os.path.dirname(repeating.__file__)))
        torch.save(net.state_dict(), folder / "last.pt")
        given = "--model project.py:make --checkpoint last.pt --data project.py:shuffled --json found.json"
        ended = subprocess.run(
            [sys.executable, "-c", "from truenorm.cli import main; main()", "diagnose", *given.split()],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (3, "truenorm: looking at 1,024 samples\n")
        record = json.loads((folder / "found.json").read_text())
        del record["machine"]
        found.append((ended.stdout, record))
    assert found[0] == found[1]

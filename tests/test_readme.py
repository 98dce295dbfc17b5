"""What the README says that its first Python example prints, it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NUMBER = re.compile(r"[-−+]?\d+(?:\.\d+)?")


def test_the_first_example_in_python_prints_what_is_shown_below_it():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code, _, shown = re.search(r"```python\n(.*?)```\n(.*?)```\n(.*?)```", readme, re.S).groups()
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout[ended.stdout.index("verdict ") :]
    assert words(printed) == words(shown)
    # The network is trained anew: other processors round otherwise.
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.25, abs=0.03)


def words(text):
    return NUMBER.sub("#", text).split()


def numbers(text):
    return [float(number.replace("−", "-")) for number in NUMBER.findall(text)]

"""Which backend serves: aten, unless another was asked for."""

import os
import subprocess
import sys

import pytest
import torch
from inline_snapshot import snapshot

import truenorm as tn
from truenorm.errors import UnknownName
from truenorm.kernels import registry


@pytest.fixture
def takes_everything(monkeypatch):
    """Triton's backend as it is on a GPU."""
    monkeypatch.setattr(type(registry.BACKENDS["triton"]), "refusal", lambda self, x: None)


def test_the_kernels_serve_only_where_they_are_asked_for(takes_everything):
    x = torch.zeros(2, 3)
    assert registry.preferred() == "aten"
    assert registry.backend_for(x) is registry.BACKENDS["aten"]
    before = tn.kernels.prefer("triton")
    try:
        assert registry.backend_for(x) is registry.BACKENDS["triton"]
    finally:
        assert tn.kernels.prefer(before) == "triton"
    assert registry.backend_for(x) is registry.BACKENDS["aten"]


def test_what_the_kernels_refuse_goes_to_aten():
    before = tn.kernels.prefer("triton")
    try:
        assert registry.backend_for(torch.zeros(2, 3)) is registry.BACKENDS["aten"]
    finally:
        tn.kernels.prefer(before)


def test_unknown_backends():
    with pytest.raises(UnknownName, match="unknown backend 'tritn'; did you mean 'triton'"):
        tn.kernels.prefer("tritn")
    assert registry.preferred() == "aten"


@pytest.mark.parametrize(("value", "preferred"), [("triton", "triton"), ("", "aten"), ("aten", "aten"), ("gpu", None)])
def test_the_environment(value, preferred):
    ended = subprocess.run(
        [sys.executable, "-c", "import truenorm.kernels; print(truenorm.kernels.preferred())"],
        env=os.environ | {registry.VARIABLE: value}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if preferred is None:
        assert (ended.returncode, ended.stdout, ended.stderr.splitlines()[-1]) == snapshot(
            (
                1,
                "",
                "truenorm.errors.UnknownName: unknown backend in the environment variable TRUENORM_KERNELS 'gpu'. Known: aten, triton",
            )
        )
    else:
        assert (ended.returncode, ended.stdout) == (0, f"{preferred}\n")

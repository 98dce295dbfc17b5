import torch

from truenorm.kernels import registry
from truenorm.kernels.registry import BACKENDS


def test_versions_devices_and_reasons(truenorm):
    ended = truenorm("env")
    assert (ended.code, ended.err) == (0, "")
    assert torch.__version__ in ended.out
    if not torch.cuda.is_available():
        rows = [line.split() for line in ended.out.splitlines()]
        assert ["cpu", "aten", "yes"] in rows
        assert "the kernels are for NVIDIA GPUs" in ended.out


def test_a_backend_that_is_asked_for_and_takes_the_input_is_the_one_that_is_used(truenorm, monkeypatch):
    monkeypatch.setattr(type(BACKENDS["triton"]), "refusal", lambda self, x: None)
    told = truenorm("env").out
    assert ["cpu", "aten", "yes"] in [line.split() for line in told.splitlines()]
    assert "serves where it is asked for: TRUENORM_KERNELS=triton" in told
    monkeypatch.setattr(registry, "_preferred", "triton")
    rows = [line.split() for line in truenorm("env").out.splitlines()]
    assert ["cpu", "triton", "yes"] in rows and ["cpu", "aten", "no", "after", "others"] in rows

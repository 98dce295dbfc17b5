import torch

from truenorm.kernels.registry import BACKENDS


def test_versions_devices_and_reasons(truenorm):
    ended = truenorm("env")
    assert (ended.code, ended.err) == (0, "")
    assert torch.__version__ in ended.out
    if not torch.cuda.is_available():
        rows = [line.split() for line in ended.out.splitlines()]
        assert ["cpu", "aten", "yes"] in rows
        assert "the kernels are for NVIDIA GPUs" in ended.out


def test_a_backend_that_takes_the_input_is_the_one_that_is_used(truenorm, monkeypatch):
    monkeypatch.setattr(type(BACKENDS["triton"]), "refusal", lambda self, x: None)
    rows = [line.split() for line in truenorm("env").out.splitlines()]
    assert ["cpu", "triton", "yes"] in rows and ["cpu", "aten", "no", "after", "others"] in rows

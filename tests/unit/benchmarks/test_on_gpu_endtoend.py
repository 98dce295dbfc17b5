"""ResNet-50 as it is written here: torchvision's, and the same with torch's layers as with ours."""

import pytest
import torch
from on_gpu import endtoend
from on_gpu.endtoend import Mode, Setting, Training, images
from on_gpu.record import Deadline, Record, of_kind
from on_gpu.resnet import ResNet50, kernels, torchs, truenorms
from torch import nn

from truenorm.kernels import BACKENDS

SMALL = Setting(device="cpu", batch=4, side=32, classes=10)


def test_it_is_resnet_50():
    with torch.device("meta"):
        network = ResNet50(torchs())
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert "layer4.2.bn3.running_var" in network.state_dict()
    assert "layer1.0.downsample.1.weight" in network.state_dict()
    assert network.layer2[0].conv2.stride == (2, 2)


def test_one_step_is_the_same_with_torchs_layers_and_with_ours():
    pytest.importorskip("truenorm.nn", reason="the package").BatchNormAct2d  # noqa: B018  # it must be there
    batches = images(SMALL)
    theirs, ours = Training(Mode("a", torchs), SMALL), Training(Mode("b", truenorms), SMALL)
    assert list(theirs.network.state_dict()) == list(ours.network.state_dict())
    torch.testing.assert_close(theirs.network.state_dict(), ours.network.state_dict(), rtol=0, atol=0)
    for training in (theirs, ours):
        training.step(batches)
    assert theirs.first_losses() == ours.first_losses()
    for (name, a), b in zip(theirs.network.named_parameters(), ours.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_the_kernels_can_be_called_directly():
    with torch.device("meta"):
        direct = ResNet50(kernels(BACKENDS["reference"]))
        assert list(direct.state_dict()) == list(ResNet50(torchs()).state_dict())
        assert direct(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_a_mode_that_fails_is_a_row_and_one_that_ended_a_process_is_left_out(tmp_path, monkeypatch):
    class Tiny(Training):
        def __init__(self, mode, setting, *, seed=0):
            if mode.name == "broken":
                raise RuntimeError("no such kernel")
            self.losses, self.taken = [], 0

        def step(self, batches):
            self.losses.append(torch.tensor(1.0 / (1 + len(self.losses))))

    monkeypatch.setattr(endtoend, "Training", Tiny)
    monkeypatch.setattr(endtoend, "images", lambda setting, seed=0: [])
    monkeypatch.setattr(
        endtoend, "modes", lambda backend: [Mode(name, torchs) for name in ("eager", "broken", "fatal", "eager + ours")]
    )
    record = Record(tmp_path / "gpu.jsonl")
    record.add({"kind": "begin", "case": "endtoend fatal"})
    endtoend.measure(None, "cpu", record, Deadline.after(100))
    rows = of_kind(record.rows(), "endtoend")
    assert {row["impl"]: row.get("error") for row in rows if not row["ok"]} == {
        "broken": "RuntimeError: no such kernel",
        "fatal": "RuntimeError: it ended an earlier process",
    }
    well = [row for row in rows if row["ok"]]
    assert {row["impl"] for row in well} >= {"eager", "eager + ours", "eager, NCHW"}
    assert all(0 < len(row["losses"]) <= endtoend.STEPS for row in well)
    assert len(of_kind(record.rows(), "losses")) == 3

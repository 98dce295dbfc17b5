"""What a command line names: networks with their weights, and batches."""

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn
from unit.doctor import patients

from truenorm.cli.opening import open_batches, open_network, try_batch
from truenorm.errors import DataUnavailable, InvalidInput, UnknownName

CODE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make():
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))

def fails():
    raise RuntimeError("no\\nweights   here")

def number():
    return 7

def with_arguments(width):
    return nn.Linear(width, width)

def batches():
    return [(torch.ones(8, 4), torch.zeros(8).long())] * 2

def stream():
    yield from batches()

def loader():
    return DataLoader(TensorDataset(torch.arange(32.0).reshape(8, 4)), batch_size=4, shuffle=True)

def samples():
    return TensorDataset(torch.ones(8, 4))

def tensor():
    return torch.ones(8, 4)

value = nn.Linear(2, 2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUENORM_DATA", raising=False)
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def refused(act, kind=InvalidInput):
    with pytest.raises(kind) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


# Networks


def test_a_network_as_it_is_built():
    network, weights = open_network("net.py:make")
    assert isinstance(network[1], nn.BatchNorm1d) and weights is None
    assert open_network("torch.nn:Flatten")[0].start_dim == 1


def test_with_its_weights(folder):
    saved = open_network("net.py:make")[0]
    nn.init.normal_(saved[1].running_mean)
    torch.save({"epoch": 3, "model": saved.state_dict()}, folder / "last.pt")
    network, weights = open_network("net.py:make", folder / "last.pt")
    patients.assert_same_bits(network.state_dict(), saved.state_dict())
    assert weights.key == "model"


def test_networks_that_are_none():
    assert refused(lambda: open_network("net.py:fails")) == snapshot(
        "net.py:fails failed: RuntimeError: no weights here"
    )
    assert refused(lambda: open_network("net.py:number")) == snapshot("net.py:number gave int, not a torch.nn.Module")
    assert refused(lambda: open_network("net.py:with_arguments")) == snapshot(
        "net.py:with_arguments failed: TypeError: with_arguments() missing 1 required positional argument: 'width'"
    )
    assert refused(lambda: open_network("net.py:value")) == snapshot(
        "net.py:value failed: TypeError: Linear.forward() missing 1 required positional argument: 'input'"
    )
    assert refused(lambda: open_network("net.py:mkae")) == snapshot("net.py has no 'mkae'; did you mean 'make'?")
    assert refused(lambda: open_network("make")) == snapshot(
        "'make' does not say what to take from where; expected file.py:name or package.module:name"
    )


def test_devices_that_are_none(monkeypatch):
    assert refused(lambda: open_network("net.py:make", device="gpu")).startswith(
        "the network cannot be put on 'gpu': Expected one of cpu, cuda"
    )
    monkeypatch.setattr(nn.Module, "to", lambda self, device: (_ for _ in ()).throw(AssertionError("no CUDA\nhere")))
    assert refused(lambda: open_network("net.py:make", device="cuda")) == snapshot(
        "the network cannot be put on 'cuda': no CUDA"
    )


def test_timm(timm):
    network, _ = open_network("timm:resnet10t")
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_timm_takes_the_number_of_classes_from_the_checkpoint(timm, folder):
    saved = timm.create_model("resnet10t", num_classes=7)
    torch.save(saved.state_dict(), folder / "seven.pt")
    network, _ = open_network("timm:resnet10t", folder / "seven.pt")
    assert network.num_classes == 7
    patients.assert_same_bits(network.state_dict(), saved.state_dict())


def test_an_unknown_timm_network(timm):
    said = refused(lambda: open_network("timm:resnet10"), InvalidInput)
    assert said.startswith("timm has no model 'resnet10'; did you mean 'resnet")
    assert len(said) < 200


def test_timm_that_cannot_be_imported(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused(lambda: open_network("timm:resnet10t")) == snapshot(
        "timm is not installed; run: pip install 'timm>=1'"
    )


# Data


def test_batches_of_a_loader_of_ones_own():
    assert len(open_batches("net.py:batches", "train")) == 2
    assert [len(x) for x, _ in open_batches("net.py:stream", "train")] == [8, 8]


def test_a_data_set_by_name():
    train, test = open_batches("digits", "train", batch_size=50), open_batches("digits", "test", batch_size=50)
    x, y = next(iter(train))
    assert x.shape == (50, 1, 8, 8) and y.shape == (50,)
    images = torch.cat([x for x, _ in train])
    assert abs(float(images.mean())) < 1e-4 and abs(float(images.std()) - 1) < 1e-3
    # Standardised by the training part, and other images.
    held_out = torch.cat([x for x, _ in test])
    assert len(held_out) < len(images) and 1e-6 < abs(float(held_out.mean())) < 0.1
    known = {tuple(x.flatten().tolist()) for x in images}
    assert not any(tuple(x.flatten().tolist()) in known for x in held_out[:50])


def test_data_that_are_none():
    def said(spec, kind=InvalidInput, **how):
        return refused(lambda: open_batches(spec, "test", **how), kind)

    assert said("net.py:fails") == snapshot("net.py:fails failed: RuntimeError: no weights here")
    assert said("net.py:number") == snapshot("data is a int; expected an iterable of batches, such as a DataLoader")
    assert said("net.py:samples") == snapshot(
        "data is a data set of single samples; wrap it: DataLoader(data, batch_size=...)"
    )
    assert said("net.py:tensor") == snapshot("data is a Tensor, not batches; give an iterable of batches: [batch]")
    assert said("digits", batch_size=1) == snapshot("batch size is 1; expected 2 or more")


def test_an_unknown_data_set(monkeypatch, folder):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((UnknownName, DataUnavailable), match="fashion-mnist"):
        open_batches("fashion-mnist", "test")


# One batch, to see whether they fit


def test_a_batch_that_fits():
    (network, _), batches = open_network("net.py:make"), open_batches("net.py:batches", "test")
    network.train()
    before, things = patients.bits(network), patients.everything_else(network)
    try_batch(network, batches)
    patients.assert_same_bits(network.state_dict(), before)
    assert patients.everything_else(network) == things


def test_a_loader_that_draws_leaves_the_random_state_as_it_was():
    network, batches = open_network("net.py:make")[0], open_batches("net.py:loader", "test")
    things = patients.everything_else(network)
    try_batch(network, batches)
    assert patients.everything_else(network) == things


def test_a_batch_that_does_not():
    network = nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2))
    network.train()
    assert refused(lambda: try_batch(network, open_batches("net.py:batches", "test"))) == snapshot(
        "the network fails on images of shape (8, 4): RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x4 and 5x2)"
    )
    assert network.training


def test_a_generator_loses_no_batch():
    batches = open_batches("net.py:stream", "test")
    try_batch(open_network("net.py:make")[0], batches)
    assert len(list(batches)) == 2


def test_a_loader_that_is_empty():
    assert refused(lambda: try_batch(open_network("net.py:make")[0], [])) == snapshot(
        "data (list) gave no batches; is it empty, used up, or shorter than one batch?"
    )

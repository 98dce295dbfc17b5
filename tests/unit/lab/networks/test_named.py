import hashlib

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

from truenorm.errors import InvalidInput, UnknownName
from truenorm.lab.networks.named import NETWORKS, network_digest, network_factory, try_network
from truenorm.lab.networks.norms import BatchNorm
from truenorm.lab.networks.plain import cnn, mlp
from truenorm.nn import BatchFreeNorm


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def make(name, **changes):
    given = {"input_shape": (1, 8, 8), "num_classes": 10, "widths": (16,)} | changes
    return network_factory(name, **given)


def kinds(network):
    return [type(module).__name__ for module in network]


class Noted:
    """A norm layer that remembers the channels it was asked for."""

    def __init__(self):
        self.channels, self.layers = [], []

    def __call__(self, channels):
        self.channels.append(channels)
        self.layers.append(nn.Identity())
        return self.layers[-1]


def test_the_mlp():
    network = mlp((3, 4, 5), 7, widths=(16, 8))
    assert network(torch.randn(2, 3, 4, 5)).shape == (2, 7)
    assert num_parameters(network) == 60 * 16 + 2 * 16 + 16 * 8 + 2 * 8 + 8 * 7 + 7
    block = ["Linear", "BatchNorm", "ReLU"]
    assert kinds(network) == ["Flatten", *block, *block, "Linear"]


def test_the_cnn():
    network = cnn((3, 32, 32), 7)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    convolutions = 9 * (3 * 8 + 8 * 16 + 16 * 32 + 32 * 32)
    assert num_parameters(network) == convolutions + 2 * (8 + 16 + 32 + 32) + 32 * 7 + 7
    block = ["Conv2d", "BatchNorm", "ReLU"]
    assert kinds(network) == [
        *block, "MaxPool2d", *block, "MaxPool2d", *block, *block, "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [4, 8, 28, 33])
def test_the_cnn_takes_images_of_any_size(size):
    assert cnn((1, size, size), 10)(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_the_norm_layer_is_used_behind_every_hidden_layer():
    for network, noted in (
        ((lambda n: mlp((1, 8, 8), 10, norm_layer=n, widths=(16, 8, 4))), Noted()),
        ((lambda n: cnn((1, 8, 8), 10, norm_layer=n)), Noted()),
    ):
        modules = list(network(noted))
        hidden = [m for m in modules[:-1] if isinstance(m, nn.Linear | nn.Conv2d)]
        widths = [getattr(m, "out_features", None) or m.out_channels for m in hidden]
        assert noted.channels == widths
        assert [modules[modules.index(layer) + 1] for layer in hidden] == noted.layers
        assert all(layer.bias is None for layer in hidden)
        assert modules[-1].bias is not None


@pytest.mark.parametrize(
    ("torchs", "shape"),
    [
        (nn.BatchNorm1d, (6, 5)),
        (nn.BatchNorm1d, (6, 5, 3)),
        (nn.BatchNorm2d, (6, 5, 3, 4)),
        (nn.BatchNorm3d, (6, 5, 2, 2, 2)),
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_torchs_bit_for_bit(torchs, shape, momentum):
    ours, theirs = BatchNorm(5, momentum=momentum), torchs(5, momentum=momentum)
    for training in (True, True, False):
        x = torch.randn(shape)
        ins = [x.clone().requires_grad_() for _ in "12"]
        outs = [norm.train(training)(i) for norm, i in zip((ours, theirs), ins, strict=True)]
        assert torch.equal(*outs)
        for out in outs:
            (out**3).sum().backward()
        assert torch.equal(ins[0].grad, ins[1].grad)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )


def test_batch_norm_refuses_one_value_per_channel_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(5)(torch.randn(1, 5))


@pytest.mark.parametrize("norm", ["bn", "bn-bfn", "gn"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "resnet50", "resnet18-w16"])
def test_a_network_by_name(name, norm):
    assert name in NETWORKS
    network = make(name, input_shape=(3, 16, 16), num_classes=4)(norm)
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 4)


def norms(network):
    return [module for module in network.modules() if isinstance(module, BatchNorm | BatchFreeNorm)]


def test_the_kind_of_norm_is_placed_anew_in_each_network():
    build = make("mlp", widths=(8, 8, 8))
    in_turn = [BatchNorm, BatchFreeNorm, BatchNorm]
    for norm, expected in (("bn-bfn", in_turn), ("bn", [BatchNorm] * 3), ("gn", [BatchFreeNorm] * 3)) * 2:
        assert [type(module) for module in norms(build(norm))] == expected


def test_the_widths_are_those_of_the_mlp():
    assert [norm.num_features for norm in norms(make("mlp", widths=(9, 7))("bn"))] == [9, 7]


@pytest.mark.parametrize(("bfn", "groups"), [(None, 1), ("layer", 1), ("group:4", 4), ("instance", 32)])
def test_plain_networks_take_the_batch_free_norm_that_was_said(bfn, groups):
    assert norms(make("mlp", widths=(16, 32), bfn=bfn)("bn-bfn"))[1].num_groups == groups


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_no_batch_free_norm_is_said_whatever_the_network(name):
    with pytest.raises(InvalidInput, match="'grup:4' is not a batch-free norm"):
        make(name, bfn="grup:4")


# A network of the user's own: file.py:factory.

OWN = """
from torch import nn

def plain(norm_layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm_layer(6), nn.Linear(6, 10))

def sized(*, norm_layer, input_shape, num_classes):
    inputs = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), norm_layer(6), nn.Linear(6, num_classes))

def anything(**given):
    assert sorted(given) == ["input_shape", "norm_layer", "num_classes"]
    return plain(given["norm_layer"])

class Net(nn.Sequential):
    def __init__(self, norm_layer):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), norm_layer(10))

def no_norm_layer(num_classes):
    return nn.Linear(64, num_classes)

def needs_more(norm_layer, depth):
    return nn.Identity()

def fails(norm_layer):
    return {}["depth"]

def no_module(norm_layer):
    return lambda images: images

def too_few_groups(norm_layer):
    return nn.Sequential(norm_layer(6), norm_layer(6))

def wrong_size(norm_layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 6), norm_layer(6), nn.Linear(6, 10))

def wrong_classes(norm_layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm_layer(6))

class Pair(nn.Module):
    def __init__(self, norm_layer):
        super().__init__()
    def forward(self, images):
        return images, images
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN)


@pytest.mark.parametrize("name", ["plain", "sized", "anything", "Net"])
def test_a_network_of_ones_own(own, name):
    network = make(f"net.py:{name}")("bn")
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert [type(m) for m in network.modules() if isinstance(m, BatchNorm)] == [BatchNorm]


def refused(own_or_name, error=InvalidInput):
    with pytest.raises(error) as caught:
        make(own_or_name)("bn")
    return str(caught.value)


def test_networks_that_are_none(own):
    assert refused("resnet", UnknownName) == snapshot(
        "unknown network 'resnet'; did you mean 'resnet50' or 'resnet18'? Known: cnn, file.py:factory, mlp, resnet18, resnet18-w16, resnet50, timm:NAME"
    )
    assert refused("ml", UnknownName) == snapshot(
        "unknown network 'ml'; did you mean 'mlp'? Known: cnn, file.py:factory, mlp, resnet18, resnet18-w16, resnet50, timm:NAME"
    )
    assert refused("resnet18-w8", UnknownName) == snapshot(
        "unknown network 'resnet18-w8'; did you mean 'resnet18-w16' or 'resnet18'? Known: cnn, file.py:factory, mlp, resnet18, resnet18-w16, resnet50, timm:NAME"
    )
    assert refused("net.py:palin") == snapshot("net.py has no 'palin'; did you mean 'plain'?")
    assert refused("nets.py:plain") == snapshot(
        "there is no file nets.py; it is looked for from the current folder; did you mean net.py?"
    )
    assert refused("net.py:no_norm_layer") == snapshot(
        "net.py:no_norm_layer does not take norm_layer=; the study gives it the norm to use: def make(norm_layer)"
    )
    assert refused("net.py:needs_more") == snapshot(
        "net.py:needs_more failed: TypeError: needs_more() missing 1 required positional argument: 'depth'"
    )
    assert refused("net.py:fails") == snapshot("net.py:fails failed: KeyError: 'depth'")
    assert refused("net.py:no_module") == snapshot("net.py:no_module gave function, not a torch.nn.Module")
    assert refused("builtins:type") == snapshot(
        "builtins:type does not tell what it takes; wrap it: def make(norm_layer)"
    )


def test_our_own_errors_pass_through_a_users_factory(own):
    with pytest.raises(InvalidInput) as caught:
        make("net.py:too_few_groups", bfn="group:4")("bn-bfn")
    assert str(caught.value) == snapshot("4 groups do not divide 6 channels; these do: 1, 2, 3, 6")


def tried(name, images=None, num_classes=10):
    network = make(f"net.py:{name}")("bn")
    with pytest.raises(InvalidInput) as caught:
        try_network(network, torch.randn(2, 1, 8, 8) if images is None else images, num_classes, name=f"net.py:{name}")
    return str(caught.value)


def test_networks_that_do_not_work_are_found_before_training(own):
    assert tried("wrong_size") == snapshot(
        "network net.py:wrong_size fails on images of shape (2, 1, 8, 8): RuntimeError: mat1 and mat2 shapes cannot "
        "be multiplied (2x64 and 32x6)"
    )
    assert tried("wrong_classes") == snapshot(
        "network net.py:wrong_classes gives (2, 6); expected logits of shape (2, 10)"
    )
    assert tried("Pair") == snapshot("network net.py:Pair gives tuple; expected logits of shape (2, 10)")
    assert tried("plain", torch.randn(1, 1, 8, 8)) == snapshot(
        "network net.py:plain fails on images of shape (1, 1, 8, 8): ValueError: Expected more than 1 value per "
        "channel when training, got input size torch.Size([1, 6])"
    )


def collapsing(name, shape, **changes):
    network = make(name, **({"input_shape": shape} | changes))("bn-bfn")
    with pytest.raises(InvalidInput) as caught:
        try_network(network, torch.randn(2, *shape), 10, name=f"{name} with bn-bfn")
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    assert sum(hooks) == 0
    return str(caught.value)


def test_norms_that_would_collapse_are_named_with_what_helps(own):
    assert collapsing("mlp", (1, 8, 8), widths=(16, 16), bfn="group:64") == snapshot(
        "network mlp with bn-bfn, layer 'norm2': 16 groups of 16 channels leave 1 values per group for input (2, 16); below 4 a group's output collapses, so take fewer groups: --bfn layer, or wider layers"
    )
    assert collapsing("mlp", (1, 8, 8), widths=(16, 2)) == snapshot(
        "network mlp with bn-bfn, layer 'norm2': 1 groups of 2 channels leave 2 values per group for input (2, 2); below 4 a group's output collapses, so take fewer groups or, as there is one, wider layers"
    )
    assert collapsing("cnn", (1, 4, 4), bfn="group:16") == snapshot(
        "network cnn with bn-bfn, layer 'norm4': 16 groups of 32 channels leave 2 values per group for input (2, 32, 1, 1); below 4 a group's output collapses, so take fewer groups: --bfn layer, or larger images by --image-size"
    )


def test_the_digest_of_a_users_file_is_that_of_its_content(own, tmp_path, monkeypatch):
    digest = hashlib.sha256(OWN.encode()).hexdigest()
    assert network_digest("net.py:plain") == network_digest(f"{tmp_path}/net.py:sized") == digest
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "installed_net.py").write_text(OWN)
    assert network_digest("installed_net:plain") == digest
    (tmp_path / "net.py").write_text(OWN + "\n")
    assert network_digest("net.py:plain") != digest
    assert network_digest("builtins:dict") == ""
    with pytest.raises(InvalidInput, match="there is no file nets.py"):
        network_digest("nets.py:plain")
    with pytest.raises(InvalidInput, match="there is no module 'no_such'"):
        network_digest("no_such:plain")


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "resnet50", "resnet18-w16"])
def test_ours_have_no_digest(name):
    assert network_digest(name) == ""

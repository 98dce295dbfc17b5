import sys

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

from truenorm.errors import InvalidInput, MissingExtra, UnknownName
from truenorm.lab.networks.named import network_digest, network_factory, try_network
from truenorm.lab.networks.timm import middle_norms
from truenorm.model.layers import batch_norms
from truenorm.nn import BatchFreeNorm

SMALL = ("resnet18", "mobilenetv3_small_050", "test_efficientnet")


def make(name, norm, *, input_shape=(3, 32, 32), num_classes=10, bfn=None):
    torch.manual_seed(0)
    return network_factory(name, input_shape=input_shape, num_classes=num_classes, widths=(), bfn=bfn)(norm)


def batch_free(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, BatchFreeNorm)}


def refused(name, norm="bn", error=InvalidInput):
    with pytest.raises(error) as caught:
        make(name, norm)
    return str(caught.value)


@pytest.mark.parametrize("norm", ["bn", "bn-bfn", "gn"])
@pytest.mark.parametrize("name", SMALL)
def test_networks_of_timms_run_and_train(timm, name, norm):
    network = make(f"timm:{name}", norm, input_shape=(1, 64, 64), num_classes=7)
    images = torch.randn(2, 1, 64, 64)
    try_network(network, images, 7, name=name)
    network(images).sum().backward()
    # timm starts some γ at 0, so not every gradient is other than 0.
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_bn_is_timms_own(timm, name):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=10)
    ours = make(f"timm:{name}", "bn")
    assert repr(ours) == repr(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_gn_exchanges_every_batch_norm(timm, name):
    before, network = batch_norms(make(f"timm:{name}", "bn")), make(f"timm:{name}", "gn")
    with pytest.raises(InvalidInput, match="no batch-norm layer"):
        batch_norms(network)
    assert [m.num_channels for m in batch_free(network).values()] == [m.num_features for m in before.values()]
    assert all(m.num_channels // m.num_groups >= min(4, m.num_channels) for m in batch_free(network).values())


def test_what_is_learnt_starts_as_it_was(timm):
    before, after = make("timm:resnet18", "bn"), make("timm:resnet18", "gn")
    states = [dict(network.named_parameters()) for network in (before, after)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not states[1]["layer1.0.bn2.weight"].any()  # timm's γ of a block's last norm


def test_activation_and_dropout_stay_behind_the_norm(timm):
    layer = timm.layers.BatchNormAct2d(8, eps=1e-3, act_layer=nn.Hardswish, drop_layer=nn.Dropout)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    images = torch.randn(3, 8, 5, 5)

    from truenorm.lab.networks.timm import _exchanged

    put_in = _exchanged("net", "layer", layer, lambda channels: BatchFreeNorm(2, channels)).eval()
    assert [name for name, _ in put_in.named_children()] == ["norm", "drop", "act"]
    expected = nn.functional.hardswish(nn.functional.group_norm(images, 2, layer.weight, layer.bias, eps=1e-3))
    assert torch.equal(put_in(images), expected)
    torch.manual_seed(1)
    dropped = put_in.train()(images)
    torch.manual_seed(1)
    kept = nn.functional.group_norm(images, 2, layer.weight, layer.bias, eps=1e-3)
    assert torch.equal(dropped, nn.functional.hardswish(nn.functional.dropout(kept)))


@pytest.mark.parametrize("norm", ["gn", "bn-bfn"])
def test_every_activation_of_the_network_stays(timm, norm):
    def activations(network):
        return [type(m).__name__ for m in network.modules() if isinstance(m, nn.ReLU | nn.Hardswish)]

    before, after = make("timm:mobilenetv3_small_050", "bn"), make("timm:mobilenetv3_small_050", norm)
    assert activations(before) == activations(after) != []
    names = [n.removesuffix(".norm") for n in batch_free(after)]
    for name in names:
        assert repr(after.get_submodule(name).act) == repr(before.get_submodule(name).act)


# Which norms are batch-free.


@pytest.mark.parametrize(("name", "num"), [("resnet18", 9), ("resnet50", 17), ("seresnet18", 9)])
def test_resnets_of_timms_have_the_middle_ones_batch_free(timm, name, num):
    network = make(f"timm:{name}", "bn-bfn")
    middle = "bn2" if name == "resnet50" else "bn1"
    free = batch_free(network)
    assert len(free) == num
    assert all(layer == "bn1" or layer.endswith(f".{middle}") for layer in free)
    assert {m.num_groups for m in free.values()} == {64}
    assert {m.num_groups for m in batch_free(make(f"timm:{name}", "bn-bfn", bfn="group:8")).values()} == {8}


def test_a_deep_stem_keeps_its_inner_norms(timm):
    network = make("timm:resnet18d", "bn-bfn")
    assert len(batch_free(network)) == 9
    assert {"conv1.1", "conv1.4", "layer2.0.downsample.2"} <= batch_norms(network).keys()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_efficientnet"])
def test_others_have_every_second_one_batch_free(timm, name):
    all_norms = list(batch_norms(make(f"timm:{name}", "bn")))
    network = make(f"timm:{name}", "bn-bfn")
    assert [n.removesuffix(".norm") for n in batch_free(network)] == all_norms[1::2]
    assert list(batch_norms(network)) == all_norms[::2]
    assert {m.num_groups for m in batch_free(network).values()} == {1}


def test_names_that_are_a_resnets():
    basic = ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1", "layer2.0.bn2", "layer2.0.downsample.1"]
    assert middle_norms(basic) == {"bn1", "layer1.0.bn1", "layer2.0.bn1"}
    assert middle_norms(reversed(basic)) == middle_norms(basic)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["bn1"],
        ["layer1.0.bn1", "layer1.0.bn2"],  # no stem
        ["bn1", "layer1.0.bn1", "layer1.0.bns.0", "layer1.0.bns.1", "layer1.0.bn3"],  # Res2Net
        ["bn1", "layer1.0.bn1", "layer1.0.conv2.bn0", "layer1.0.conv2.bn1", "layer1.0.bn3"],  # ResNeSt
        ["bn1", "layer1.0.conv1.paths.0.bn", "layer1.0.conv2.bn"],  # SKNet
        ["bn1", "blocks.0.0.bn1", "blocks.0.0.bn2"],
    ],
)
def test_names_that_are_no_resnets(names):
    assert middle_norms(names) == set()


# What cannot be had.


def test_networks_that_cannot_be_studied(timm, monkeypatch):
    monkeypatch.setattr(timm, "list_models", lambda: ["resnet18", "resnet34", "resnet18d", "vgg11_bn", "convnext_tiny"])
    assert refused("timm:resnet19", error=UnknownName) == snapshot(
        "unknown network of timm's 'resnet19'; did you mean 'resnet18' or 'resnet18d'? Known: resnet18, resnet18d, resnet34, … (5 in timm.list_models())"
    )
    assert refused("timm:", error=UnknownName) == snapshot(
        "unknown network of timm's ''. Known: … (5 in timm.list_models())"
    )
    assert refused("timm:test_convnext") == snapshot(
        "timm:test_convnext has no batch norm to study; take one that has, such as timm:resnet18"
    )


def test_what_timm_refuses_is_said_with_the_name(timm, monkeypatch):
    def fails(*_, **__):
        raise TypeError("unexpected keyword in_chans")

    monkeypatch.setattr(timm, "create_model", fails)
    assert refused("timm:resnet18") == snapshot("timm:resnet18 failed: TypeError: unexpected keyword in_chans")


def test_a_norm_that_nobody_knows_is_refused_with_its_name(timm, monkeypatch):
    class Renorm(nn.BatchNorm2d):
        def forward(self, input):
            return input

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: nn.Sequential(nn.Conv2d(3, 4, 1), Renorm(4)))
    make("timm:resnet18", "bn")
    assert refused("timm:resnet18", "gn") == snapshot(
        "layer '1' of timm:resnet18 is a Renorm, for which no batch-free norm can be put in; take another network"
    )


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("timm:resnet18", error=MissingExtra) == snapshot("timm is not installed; run: pip install 'timm>=1'")


def test_with_a_torchvision_of_another_build(monkeypatch):
    from truenorm.lab.networks import timm as module

    def fails(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(module, "import_module", fails)
    assert refused("timm:resnet18") == snapshot(
        "timm is installed and cannot be imported (operator torchvision::nms does not exist); install the torchvision made for this torch"
    )


def test_the_digest_is_timms_version(timm):
    assert network_digest("timm:resnet18") == timm.__version__


def test_the_digest_without_timm(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from truenorm.lab.networks import named as networks

    def fails(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(networks, "version", fails)
    with pytest.raises(MissingExtra) as caught:
        network_digest("timm:resnet18")
    assert str(caught.value) == "timm is not installed; run: pip install 'timm>=1'"

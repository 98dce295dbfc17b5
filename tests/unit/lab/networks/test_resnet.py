import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

from truenorm.errors import InvalidInput
from truenorm.lab.networks.named import network_factory, try_network
from truenorm.lab.networks.norms import BatchNorm
from truenorm.lab.networks.resnet import RESNETS
from truenorm.lab.networks.timm import middle_norms
from truenorm.nn import BatchFreeNorm

NAMES = ("resnet18", "resnet50")


def make(name, norm, *, input_shape=(3, 32, 32), num_classes=10, bfn=None):
    return network_factory(name, input_shape=input_shape, num_classes=num_classes, widths=(), bfn=bfn)(norm)


def norms(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, BatchNorm | BatchFreeNorm)}


def batch_free(network):
    return {n: m for n, m in norms(network).items() if isinstance(m, BatchFreeNorm)}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# torchvision's, where the images are large.


@pytest.fixture(params=NAMES)
def pair(request, torchvision):
    """A network of torchvision's and ours, with the same seed."""
    torch.manual_seed(3)
    theirs = getattr(torchvision.models, request.param)(weights=None)
    torch.manual_seed(3)
    return theirs, RESNETS[request.param]((3, 96, 96), 1000)


def test_a_seed_gives_torchvisions_weights(pair):
    theirs, ours = pair
    assert equal(theirs.state_dict(), ours.state_dict())


def test_torchvisions_weights_give_torchvisions_output(pair):
    theirs, ours = pair
    nn.init.normal_(theirs.fc.bias)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # nothing as it was made, and no γ that lets a norm fall out
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 70, 96)
    for training in (False, True):
        outputs = [network.train(training)(images) for network in pair]
        assert torch.equal(*outputs)
        assert outputs[0].std() > 0
    outputs[0].square().sum().backward()
    outputs[1].square().sum().backward()
    assert equal(theirs.state_dict(), ours.state_dict())  # the statistics of the batch among them
    assert equal(*({name: p.grad for name, p in network.named_parameters()} for network in pair))


# The stem follows from the images.


@pytest.mark.parametrize(
    ("input_shape", "small"),
    [((3, 32, 32), True), ((1, 28, 28), True), ((1, 64, 200), True), ((3, 65, 65), False), ((1, 96, 80), False)],
)
def test_the_stem_follows_from_the_size(input_shape, small):
    network = RESNETS["resnet18-w16"](input_shape, 10)
    assert network.conv1.weight.shape == (16, input_shape[0], *((3, 3) if small else (7, 7)))
    assert network(torch.randn(2, *input_shape)).shape == (2, 10)
    stem = network.maxpool(network.conv1(torch.randn(1, *input_shape)))
    halved = tuple((side + 3) // 4 for side in input_shape[1:])
    assert stem.shape[2:] == (input_shape[1:] if small else halved)


def test_the_small_stem_changes_nothing_but_the_first_convolution():
    large, small = ({n: p.shape for n, p in RESNETS["resnet50"]((3, s, s), 1000).named_parameters()} for s in (224, 32))
    assert {name for name in large if large[name] != small.get(name)} == {"conv1.weight"}
    assert large.keys() == small.keys()


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.174), ("resnet50", 23.521), ("resnet18-w16", 0.701)],
)
def test_the_number_of_parameters(name, millions):
    network = RESNETS[name]((3, 32, 32), 10)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 3) == millions


def test_the_thin_one_has_a_quarter_of_the_channels():
    thin, whole = (
        [m.out_channels for m in RESNETS[name]((1, 8, 8), 10).modules() if isinstance(m, nn.Conv2d)]
        for name in ("resnet18-w16", "resnet18")
    )
    assert [4 * channels for channels in thin] == whole
    assert sorted(set(thin)) == [16, 32, 64, 128]


# The norms.


@pytest.mark.parametrize(
    ("name", "all_norms", "free"), [("resnet50", 53, 17), ("resnet18", 20, 9), ("resnet18-w16", 20, 9)]
)
def test_which_norms_are_batch_free(name, all_norms, free):
    network = make(name, "bn-bfn")
    assert (len(norms(network)), len(batch_free(network))) == (all_norms, free)
    middle = "bn2" if name == "resnet50" else "bn1"
    for layer, norm in norms(network).items():
        expected = layer == "bn1" or (layer.endswith(middle) and "downsample" not in layer)
        assert isinstance(norm, BatchFreeNorm) == expected, layer
    assert set(batch_free(network)) == middle_norms(norms(network))


def test_groups_unless_said():
    groups = {m.num_channels: m.num_groups for m in batch_free(make("resnet50", "bn-bfn")).values()}
    assert groups == {64: 64, 128: 64, 256: 64, 512: 64}
    groups = {m.num_channels: m.num_groups for m in batch_free(make("resnet18-w16", "bn-bfn")).values()}
    assert groups == {16: 16, 32: 32, 64: 64, 128: 64}


@pytest.mark.parametrize(
    ("bfn", "groups"),
    [("layer", [1, 1, 1, 1]), ("instance", [16, 32, 64, 128]), ("group:32", [16, 32, 32, 32])],
)
def test_groups_as_said(bfn, groups):
    found = {m.num_channels: m.num_groups for m in batch_free(make("resnet18-w16", "bn-bfn", bfn=bfn)).values()}
    assert found == dict(zip((16, 32, 64, 128), groups, strict=True))


def test_group_norm_everywhere():
    network = make("resnet18", "gn")
    assert len(batch_free(network)) == len(norms(network)) == 20
    assert all(m.num_channels == 16 * m.num_groups for m in batch_free(network).values())


def test_batch_norm_everywhere():
    assert not batch_free(make("resnet18-w16", "bn"))


def test_the_weights_do_not_depend_on_the_norm():
    states = []
    for norm in ("bn", "bn-bfn", "gn"):
        torch.manual_seed(5)
        states.append(dict(make("resnet18-w16", norm).named_parameters()))
    assert equal(states[0], states[1]) and equal(states[0], states[2])


@pytest.mark.parametrize("norm", ["bn", "bn-bfn", "gn"])
@pytest.mark.parametrize("name", RESNETS)
def test_grey_images_are_taken(name, norm):
    network = make(name, norm, input_shape=(1, 16, 16), num_classes=7)
    images = torch.randn(2, 1, 16, 16)
    try_network(network, images, 7, name=name)
    network(images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_groups_that_would_collapse_are_refused_with_what_helps():
    network = make("resnet18-w16", "bn-bfn", input_shape=(1, 8, 8))
    with pytest.raises(InvalidInput) as caught:
        try_network(network, torch.randn(2, 1, 8, 8), 10, name="resnet18-w16 with bn-bfn")
    assert str(caught.value) == snapshot(
        "network resnet18-w16 with bn-bfn, layer 'layer4.0.bn1': 64 groups of 128 channels leave 2 values per group for input (2, 128, 1, 1); below 4 a group's output collapses, so take fewer groups: --bfn layer, or larger images by --image-size"
    )
    for remedy in (
        make("resnet18-w16", "bn-bfn", input_shape=(1, 8, 8), bfn="layer"),
        make("resnet18-w16", "bn-bfn", input_shape=(1, 8, 8), bfn="group:32"),
    ):
        try_network(remedy, torch.randn(2, 1, 8, 8), 10, name="")
    try_network(network, torch.randn(2, 1, 16, 16), 10, name="")

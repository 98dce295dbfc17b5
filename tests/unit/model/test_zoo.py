"""Networks as people have them go through everything there is to do to a network, and come back as they were."""

import copy

import pytest
import torch
from nets import assert_same_bits, bits, num_hooks
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.doctor.remedy import RepairStatistics
from truenorm.model.freeze import is_frozen
from truenorm.model.layers import batch_norms
from truenorm.nn.batchnorm import TrackedBatchNorm

pytestmark = pytest.mark.slow  # whole networks of two libraries

CLASSES = 4
LIMIT = 24
IMAGES = {
    "torchvision": ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "regnet_y_400mf"),
    "timm": ("resnet18", "mobilenetv3_small_050", "efficientnet_b0", "densenet121", "regnety_002"),
}
ZOO = [(library, name) for library, names in IMAGES.items() for name in names] + [("here", "unet")]
every_network = pytest.mark.parametrize(("library", "name"), ZOO, ids=[" ".join(one) for one in ZOO])


class Block(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(nn.Conv3d(a, b, 3, padding=1, bias=False), nn.BatchNorm3d(b), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Volumes in, a class for each voxel out; what went down is joined to what comes up."""

    def __init__(self, width=4):
        super().__init__()
        self.first, self.second, self.bottom = Block(1, width), Block(width, 2 * width), Block(2 * width, 4 * width)
        self.up, self.last = Block(6 * width, 2 * width), Block(3 * width, width)
        self.out = nn.Conv3d(width, CLASSES, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(F.max_pool3d(a, 2))
        y = self.bottom(F.max_pool3d(b, 2))
        y = self.up(torch.cat([F.interpolate(y, scale_factor=2), b], 1))
        return self.out(self.last(torch.cat([F.interpolate(y, scale_factor=2), a], 1)))


@pytest.fixture
def network(library, name, request):
    """Random weights, and statistics of some training."""
    if library == "here":
        net = UNet()
    elif library == "timm":
        net = request.getfixturevalue("timm").create_model(name, num_classes=CLASSES)
    else:
        net = getattr(request.getfixturevalue("torchvision").models, name)(num_classes=CLASSES)
    with torch.no_grad():
        for layer in batch_norms(net).values():
            layer.weight.uniform_(0.5, 1.5)  # some libraries start with zeros, which hide a layer
        for x, _ in data_of(net, 2):
            net(x)
    return net


def data_of(net, num=6, size=8):
    """Batches of noise about a level, with classes."""
    if isinstance(net, UNet):
        return [
            (torch.randn(size, 1, 8, 8, 8) + 0.5, torch.randint(0, CLASSES, (size, 8, 8, 8)))
            for _ in range(num)
        ]  # fmt: skip
    return [(torch.randn(size, 3, 32, 32) + 0.5, torch.randint(0, CLASSES, (size,))) for _ in range(num)]


def modes(net):
    return {name: module.training for name, module in net.named_modules()}


def step(net, batch):
    images, labels = batch
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    F.cross_entropy(net.train()(images), labels).backward()
    optimizer.step()


@every_network
def test_a_spoilt_layer_is_found_and_mended(network):
    data = data_of(network)
    tn.assign(network, tn.measure(network, data, flow="sequential"))
    right = copy.deepcopy(network).eval()

    def nearness(output, batch):
        """To what the network gives with statistics that are right."""
        with torch.no_grad():
            return -(output - right(batch[0])).flatten(1).square().mean(1)

    names = list(batch_norms(network))
    spoilt = names[len(names) // 2]
    layer = network.get_submodule(spoilt)
    layer.running_mean.sub_(30 * (layer.running_var + layer.eps).sqrt())
    before, before_modes, hooks = bits(network), modes(network), num_hooks(network)

    found = tn.diagnose(network, data, score=nearness, limit=LIMIT)
    assert not found.healthy and found.best
    assert any(isinstance(step.remedy, RepairStatistics) for step in found.steps)
    assert {state.layer for state in found.layers} == set(names)
    assert max(found.layers, key=lambda state: state.harm).layer == spoilt
    assert_same_bits(network.state_dict(), before)
    assert modes(network) == before_modes and num_hooks(network) == hooks

    done = tn.repair(network, data, score=nearness, limit=LIMIT)
    assert done.chosen and done.scores[done.chosen]["score"] > done.scores["as it is"]["score"]
    assert modes(network) == before_modes and num_hooks(network) == hooks
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(after[key], before[key])}
    assert {key for key in changed if not key.endswith(("running_mean", "running_var"))} == set()
    assert f"{spoilt}.running_mean" in changed
    off = (layer.running_mean - right.get_submodule(spoilt).running_mean) / right.get_submodule(
        spoilt
    ).running_var.sqrt()
    assert off.square().mean().sqrt() < 2
    tn.assign(network, done.previous)
    assert_same_bits(network.state_dict(), before)


@pytest.mark.parametrize(("library", "name"), [ZOO[1], ZOO[5], ZOO[-1]], ids=[" ".join(ZOO[i]) for i in (1, 5, -1)])
def test_classes_of_images_and_of_voxels_are_scored(network, library):
    found = tn.diagnose(network, data_of(network), limit=LIMIT)
    assert list(found.gains["joint"]) == ["accuracy", "log likelihood"]
    assert found.looked.kind == ("classes of positions" if library == "here" else "classes")
    assert found.layers and found.recommendation


@every_network
def test_frozen_it_trains_without_its_statistics_and_thawed_with_them(network):
    batch, names = data_of(network, 1)[0], tuple(batch_norms(network))
    network.train()
    flags = [(name, p.requires_grad) for name, p in network.named_parameters()]
    before, before_modes = tn.statistics(network), modes(network)
    state = bits(network)
    assert tn.freeze(network, affine=True) == names
    assert_same_bits(network.state_dict(), state)
    step(network, batch)
    assert tn.statistics(network) == before
    now = network.state_dict()
    norms = {key for key in now if key.rpartition(".")[0] in names}
    assert all(torch.equal(now[key], state[key]) for key in norms)
    assert any(not torch.equal(now[key], state[key]) for key in now.keys() - norms)
    assert all(is_frozen(layer) and not layer.training for layer in batch_norms(network).values())

    assert tn.unfreeze(network) == names
    assert modes(network) == before_modes
    assert [(name, p.requires_grad) for name, p in network.named_parameters()] == flags
    step(network, batch)
    now = tn.statistics(network)
    assert all(now[name] != before[name] for name in names)


@every_network
def test_converted_it_infers_alike_and_comes_back_the_same(network):
    images, state = data_of(network, 1, 4)[0][0], bits(network)
    kinds = {name: type(layer) for name, layer in batch_norms(network).items()}
    expected = network.eval()(images)
    modes_before = modes(network)
    tn.convert(network)
    assert all(isinstance(layer, TrackedBatchNorm) for layer in batch_norms(network).values())
    assert_same_bits(network.state_dict(), state)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    tn.freeze(network)
    tn.convert(network, to="torch")
    tn.unfreeze(network)
    assert {name: type(layer) for name, layer in batch_norms(network).items()} == kinds
    assert_same_bits(network.state_dict(), state)
    assert modes(network) == modes_before
    assert torch.equal(network(images), expected)

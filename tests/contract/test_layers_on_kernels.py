"""Layers on Triton's kernels do what layers on torch's do. On a CPU the kernels are let in, and interpreted."""

import copy

import pytest
import torch
from contract.backends import DEVICE, needs_triton, random
from torch import nn
from torch.testing import assert_close

import truenorm as tn
from truenorm.kernels import registry
from truenorm.kernels.triton import backend

pytestmark = [needs_triton, pytest.mark.slow]  # interpreted kernels


@pytest.fixture
def calls(monkeypatch):
    """What reached the kernels."""
    seen = []
    kernels = type(registry.BACKENDS["triton"])

    def count(name):
        original = getattr(kernels, name)

        def counted(self, *given, **named):
            seen.append(name)
            return original(self, *given, **named)

        monkeypatch.setattr(kernels, name, counted)

    for name in ("batch_norm", "normalize"):
        count(name)
    monkeypatch.setattr(kernels, "refusal", lambda self, x: backend._input(x))
    monkeypatch.setattr(registry, "_preferred", "triton")
    return seen


@pytest.fixture
def on_aten(monkeypatch):
    """Compute a function with torch's own operators."""

    def compute(function):
        with monkeypatch.context() as context:
            context.setattr(registry, "_preferred", "aten")
            return function()

    return compute


def step(layer, *given):
    mine = [value.clone().requires_grad_() for value in given]
    y = layer(*mine)
    y.square().mean().backward()
    return y, [value.grad for value in mine], [value.grad for value in layer.parameters()], dict(layer.named_buffers())


LAYERS = {
    "1d": (lambda **named: tn.nn.BatchNorm1d(5, **named), (7, 5)),
    "2d": (lambda **named: tn.nn.BatchNorm2d(5, **named), (4, 5, 3, 3)),
    "3d": (lambda **named: tn.nn.BatchNorm3d(5, **named), (3, 5, 2, 2, 2)),
}


@pytest.mark.parametrize("which", LAYERS)
@pytest.mark.parametrize("named", [
    {}, {"tracking": "torch"}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.0},
], ids=str)  # fmt: skip
def test_a_layer_trains_and_infers_alike(calls, on_aten, which, named):
    make, shape = LAYERS[which]
    ours = make(**named).to(DEVICE)
    theirs = copy.deepcopy(ours)
    batches = [random(*shape, offset=1.0) for _ in range(3)]
    for x in batches:
        got, expected = step(ours, x), on_aten(lambda x=x: step(theirs, x))
        assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == 3 and "normalize" not in calls
    ours.eval(), theirs.eval()
    assert_close(step(ours, x), on_aten(lambda: step(theirs, x)), rtol=1e-4, atol=1e-5)


def test_a_layer_with_what_follows_it_is_one_call(calls, on_aten):
    ours = tn.nn.BatchNormAct2d(5, activation="relu").to(DEVICE)
    theirs = copy.deepcopy(ours)
    x, residual = random(4, 5, 3, 3), random(4, 5, 3, 3)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        got, expected = step(ours, x, residual), on_aten(lambda: step(theirs, x, residual))
        assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert calls == ["batch_norm", "normalize"]


def test_under_autocast_statistics_are_float32(calls):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), tn.nn.BatchNorm2d(8)).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = net(random(4, 3, 6, 6))
    assert calls == ["batch_norm"] and y.dtype == torch.bfloat16
    assert net[1].running_mean.dtype == torch.float32
    y.float().square().mean().backward()
    assert net[0].weight.grad.isfinite().all()


def network():
    torch.manual_seed(0)
    layers = [
        nn.Linear(6, 12),
        tn.nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 8),
        tn.nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    ]
    return nn.Sequential(*layers).to(DEVICE)


def trained(net, watched=None):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        x = torch.randn(16, 6, generator=generator).to(DEVICE)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return net


def test_watching_changes_no_bit_of_a_training(calls):
    plain, watched = trained(network()), network()
    with tn.watch(watched) as watch:
        trained(watched)
    for name, value in plain.state_dict().items():
        if "running" not in name:
            assert torch.equal(value, watched.state_dict()[name]), name
        else:
            assert_close(value, watched.state_dict()[name], rtol=1e-6, atol=1e-6)
    assert set(calls) == {"batch_norm"} and "static-0.1" in watch


def test_a_network_is_measured_and_frozen_alike(calls, on_aten):
    net = trained(network())
    batches = [random(16, 6) for _ in range(3)]
    got, expected = tn.measure(net, batches), on_aten(lambda: tn.measure(net, batches))
    for name, moments in got.items():
        assert_close(moments.mean, expected[name].mean, rtol=1e-5, atol=1e-6)
        assert_close(moments.var, expected[name].var, rtol=1e-5, atol=1e-6)
    tn.freeze(net)
    before = {name: value.clone() for name, value in net.named_buffers()}
    trained(net)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())

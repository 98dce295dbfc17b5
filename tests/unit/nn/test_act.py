"""Batch norm with a fixed activation: the batch norm that it is, and everything people do with a module."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.scratch import is_swappable

SHAPES = {
    tn.nn.BatchNormAct1d: (6, 3),
    tn.nn.BatchNormAct2d: (6, 3, 4, 4),
    tn.nn.BatchNormAct3d: (6, 3, 2, 2, 3),
}
PLAIN = {
    tn.nn.BatchNormAct1d: tn.nn.BatchNorm1d,
    tn.nn.BatchNormAct2d: tn.nn.BatchNorm2d,
    tn.nn.BatchNormAct3d: tn.nn.BatchNorm3d,
}
FUNCTIONS = {
    "identity": lambda y: y,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}
every_class = pytest.mark.parametrize("cls", SHAPES)


@every_class
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("tracking", ["pooled", "torch"])
@pytest.mark.parametrize("with_residual", [True, False])
def test_it_is_the_activation_of_batch_norm_and_residual(cls, activation, tracking, with_residual):
    ours = cls(3, eps=1e-3, activation=activation, tracking=tracking)
    plain = PLAIN[cls](3, eps=1e-3, tracking=tracking)
    nn.init.normal_(ours.weight)
    plain.load_state_dict(ours.state_dict())
    for training in (True, True, False):
        x, r = (torch.randn(SHAPES[cls], requires_grad=True) for _ in range(2))
        a, b = (one.detach().clone().requires_grad_() for one in (x, r))
        got = ours.train(training)(x, r) if with_residual else ours.train(training)(x)
        y = plain.train(training)(a)
        expected = FUNCTIONS[activation](y + b if with_residual else y)
        assert_close(got, expected, rtol=0, atol=0)
        got.square().sum().backward()
        expected.square().sum().backward()
        assert_close((x.grad, ours.weight.grad, ours.bias.grad), (a.grad, plain.weight.grad, plain.bias.grad))
        if with_residual:
            assert_close(r.grad, b.grad)
        assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_residual_of_another_shape_or_type_is_broadcast_and_promoted_as_by_torch():
    x = torch.randn(6, 3, 4, 4)
    for r in (torch.randn(3, 1, 1), torch.randn(6, 3, 4, 4, dtype=torch.float64)):
        expected = F.relu(tn.nn.BatchNorm2d(3)(x) + r)
        assert_close(tn.nn.BatchNormAct2d(3)(x, r), expected, rtol=0, atol=0)


@every_class
def test_state_dicts_load_strictly_both_ways(cls):
    theirs, ours = cls.origin(3), cls(3)
    theirs(torch.randn(SHAPES[cls]))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours(torch.randn(SHAPES[cls]))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_it_says_what_it_applies_and_refuses_what_it_does_not_know():
    assert repr(tn.nn.BatchNormAct2d(3, activation="silu")).endswith("tracking='pooled', activation='silu')")
    with pytest.raises(UnknownName, match="unknown activation 'rely'; did you mean 'relu'"):
        tn.nn.BatchNormAct2d(3, activation="rely")
    with pytest.raises(UnknownName, match="tracking"):
        tn.nn.BatchNormAct2d(3, tracking="none")
    with pytest.raises(ValueError, match="expected 4D input"):
        tn.nn.BatchNormAct2d(3)(torch.randn(2, 3))


@every_class
def test_copies_and_pickles_go_on_alike(cls):
    norm = cls(3, 1e-3, 0.3, activation="gelu", tracking="torch")
    x = torch.randn(SHAPES[cls])
    norm(x)
    others = copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))
    expected = norm(x)
    for other in others:
        assert type(other) is cls and (other.activation, other.tracking) == ("gelu", "torch")
        assert_close(other(x), expected, rtol=0, atol=0)
        assert_close(other.state_dict(), norm.state_dict(), rtol=0, atol=0)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = tn.nn.BatchNormAct2d(3, activation="silu")

    def forward(self, x):
        return self.norm(self.conv(x), x)


def test_compiles_and_exports_as_one_graph_and_is_traced():
    torch._dynamo.reset()
    net = Block()
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for training in (True, True, False):
        x = torch.randn(4, 3, 6, 6)
        assert_close(compiled.train(training)(x), twin.train(training)(x))
    assert_close(dict(net.named_buffers()), dict(twin.named_buffers()))
    assert_close(torch.export.export(net.eval(), (x,)).module()(x), twin(x))
    for training in (True, False):
        traced = torch.fx.symbolic_trace(net.train(training))
        assert_close(traced(x), twin.train(training)(x))


def test_channels_last_stays_and_autocast_keeps_statistics_in_float32():
    net = Block()
    x = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    assert net(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x.bfloat16())
    assert y.dtype == torch.bfloat16 and net.norm.running_mean.dtype == torch.float32


def test_a_watch_a_measurement_and_a_freeze_treat_it_as_batch_norm():
    net = nn.Sequential(nn.Linear(4, 3), tn.nn.BatchNormAct1d(3, activation="gelu"))
    plain = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    plain.load_state_dict(net.state_dict())
    alone = copy.deepcopy(net)
    assert is_swappable(net[1])
    data = [torch.randn(5, 4) for _ in range(6)]
    with tn.watch(net) as watched, tn.watch(plain) as reference:
        for x in data:
            plain(x)
            assert_close(net(x), alone(x), rtol=0, atol=0)
    assert watched["static-0.1"] == reference["static-0.1"]
    assert_close(net.state_dict(), alone.state_dict(), rtol=1e-5, atol=1e-6)
    measured, expected = (tn.measure(one, data)["1"] for one in (net, plain))
    assert_close((measured.mean, measured.var), (expected.mean, expected.var))
    found = tn.diagnose(net, [(x, torch.randint(0, 3, (5,))) for x in data])
    assert [state.layer for state in found.layers] == ["1"]
    before = tn.statistics(net)
    assert tn.freeze(net) == ("1",)
    net.train()(data[0])
    assert tn.statistics(net) == before
    assert tn.unfreeze(net) == ("1",)


def test_a_subclass_of_the_users_is_lent_buffers_only_while_the_forward_is_ours():
    class Labelled(tn.nn.BatchNormAct1d):
        label = "mine"

    class Doubled(tn.nn.BatchNorm1d):
        def forward(self, input):
            return 2 * super().forward(input)

    assert is_swappable(Labelled(3)) and not is_swappable(Doubled(3))


@pytest.mark.parametrize("to", ["torch", "sync"])
def test_converting_to_what_would_lose_its_activation_leaves_it_and_says_so(to):
    net = nn.Sequential(tn.nn.BatchNormAct1d(3))
    with pytest.warns(UserWarning, match=r"left as they are: 0 \(it holds its activation, which torch's"):
        tn.convert(net, to=to)
    assert type(net[0]) is tn.nn.BatchNormAct1d


@pytest.mark.parametrize("to", ["group", "layer", "instance", "bn-bfn"])
def test_batch_free_norms_would_lose_its_activation_and_are_refused(to):
    net = nn.Sequential(nn.BatchNorm1d(8), tn.nn.BatchNormAct1d(8))
    with pytest.raises(InvalidInput, match="layer '1' is a BatchNormAct1d that holds its activation"):
        tn.convert(net, to=to)
    assert type(net[0]) is nn.BatchNorm1d


def test_converting_to_ours_leaves_it_as_it_is():
    norm = tn.nn.BatchNormAct1d(3, tracking="torch")
    assert tn.convert(nn.Sequential(norm))[0] is norm and norm.tracking == "torch"


def test_a_residual_of_another_shape_and_an_unknown_activation_are_refused():
    layer, x = tn.nn.BatchNormAct1d(2), torch.randn(4, 2)
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"residual has shape \(5, 4, 2\); expected that of x, \(4, 2\)"):
            layer.train(mode)(x, torch.randn(5, 4, 2))
    with pytest.raises(UnknownName, match="unknown activation 'tanh'"):
        tn.nn.BatchNorm1d(2)(x, activation="tanh")

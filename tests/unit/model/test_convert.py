"""Converting changes classes and nothing else; there and back is lossless."""

import copy
import pickle
import re
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import InvalidInput, UnknownName
from truenorm.nn.batchnorm import LONG_TRAINED


@pytest.fixture
def act(timm):
    return timm.layers.norm_act.BatchNormAct2d


class Net(nn.Module):
    """A shared norm, a frozen one, one without affine, one in double precision, one that may hold its activation."""

    def __init__(self, act=nn.BatchNorm2d, **named):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.BatchNorm2d(8, eps=1e-3, momentum=0.3)
        self.act = act(8, **named)
        self.shared = nn.BatchNorm2d(8, momentum=None)
        self.again = self.shared
        self.frozen = nn.BatchNorm2d(8).eval()
        self.frozen.weight.requires_grad_(False)
        self.plain = nn.BatchNorm1d(8, affine=False, dtype=torch.float64)
        self.none = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x):
        x = self.act(self.first(self.conv(x)))
        x = self.frozen(self.again(self.shared(x))).mean((2, 3))
        return self.none(self.plain(x.double()).float())


def trained(act=nn.BatchNorm2d, **named):
    torch.manual_seed(0)
    net = Net(act, **named)
    for _ in range(3):
        net(torch.randn(4, 3, 6, 6))
    return net


def everything(net):
    """What a conversion must keep, by name."""
    return [
        (name, type(m), m.training, {k: v for k, v in vars(m).items() if k not in ("_parameters", "_buffers")})
        for name, m in net.named_modules(remove_duplicate=False)
    ]


def tensors(net):
    return {name: (id(t), t.requires_grad) for name, t in [*net.named_parameters(), *net.named_buffers()]}


def test_there_and_back_is_lossless_to_the_bit(act):
    net = trained(act, act_layer=nn.GELU)
    net.first.register_forward_hook(lambda *args: None)
    net.first.note = "mine"
    before, kept, state = everything(net), tensors(net), copy.deepcopy(net.state_dict())
    modules = dict(net.named_modules(remove_duplicate=False))
    assert tn.convert(net) is net
    assert [type(net.first), type(net.shared), type(net.plain)] == [
        tn.nn.BatchNorm2d,
        tn.nn.BatchNorm2d,
        tn.nn.BatchNorm1d,
    ]
    assert isinstance(net.act, act) and net.shared is net.again
    assert net.first.momentum == 0.3 and net.first.eps == 1e-3 and not net.frozen.training
    assert tensors(net) == kept
    tn.convert(net, to="torch")
    assert all(modules[name] is module for name, module in net.named_modules(remove_duplicate=False))
    assert everything(net) == before
    assert tensors(net) == kept
    assert_close(net.state_dict(), state, rtol=0, atol=0)


def test_it_trains_and_infers_as_before():
    net = trained()
    twin = tn.convert(copy.deepcopy(net))
    for training in (True, False):
        x = torch.randn(4, 3, 6, 6)
        net.train(training)
        twin.train(training)
        assert_close(twin.eval()(x), net.eval()(x), rtol=0, atol=0)
        net.train()
        twin.train()
        net.zero_grad()
        twin.zero_grad()
        a, b = net(x), twin(x)
        assert_close(b, a, rtol=0, atol=0)
        a.square().sum().backward()
        b.square().sum().backward()
        for one, other in zip(twin.parameters(), net.parameters(), strict=True):
            assert_close(one.grad, other.grad, rtol=0, atol=0)
        tn.assign(twin, tn.statistics(net))


def test_an_activation_within_is_kept_and_the_copy_too(act):
    norm = act(8, act_layer=nn.GELU)
    x = torch.randn(4, 8, 3, 3)
    expected = norm(x)
    norm.reset_running_stats()
    tn.convert(norm)
    assert_close(norm(x), expected, rtol=0, atol=0)
    assert_close(norm.running_var, x.var((0, 2, 3), correction=0))
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other) is type(norm)
        assert_close(other(x), expected, rtol=0, atol=0)
        assert type(tn.convert(other, to="torch")) is act


def test_a_network_of_timms_goes_there_and_back(timm):
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=10).train()
    x = torch.randn(4, 3, 32, 32)
    twin = tn.convert(copy.deepcopy(net))
    torch.manual_seed(1)
    expected = net(x)
    torch.manual_seed(1)
    assert_close(twin(x), expected, rtol=0, atol=0)
    assert type(tn.convert(twin, to="torch").bn1) is type(net.bn1)


def test_statistics_that_no_batch_was_counted_for_are_trusted():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(5.0)
    tn.convert(norm)(torch.randn(64, 3))
    assert norm.num_batches_tracked == LONG_TRAINED + 1
    assert norm.running_mean.min() > 4


@pytest.mark.parametrize("tracking", ["pooled", "torch"])
@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
def test_a_watch_sees_the_same_with_our_layers_and_leaves_them_as_unwatched(tracking, momentum):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    watched_net = nn.Sequential(nn.Linear(4, 3), tn.nn.BatchNorm1d(3, momentum=momentum, tracking=tracking))
    watched_net[0].load_state_dict(plain[0].state_dict())
    alone = copy.deepcopy(watched_net)
    with tn.watch(plain) as reference, tn.watch(watched_net) as watched:
        for _ in range(40):
            x = torch.randn(5, 4)
            plain(x)
            assert_close(watched_net(x), alone(x), rtol=0, atol=0)
    assert watched["static-0.1"] == reference["static-0.1"]
    assert watched["adaptive"] == reference["adaptive"]
    assert_close(watched_net.state_dict(), alone.state_dict(), rtol=1e-5, atol=1e-6)
    assert watched_net[1].tracking == tracking and watched_net[1].momentum == momentum


def test_measuring_leaves_our_layers_as_they_were():
    net = tn.convert(trained())
    state = copy.deepcopy(net.state_dict())
    data = [torch.randn(4, 3, 6, 6) for _ in range(3)]
    population = tn.measure(net, data)
    assert_close(net.state_dict(), state, rtol=0, atol=0)
    first = torch.cat([net.conv(x) for x in data]).double()
    assert_close(population["first"].var, first.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-7)


def test_synchronised_layers_are_made_and_unmade(timm, act):
    net = trained(act, act_layer=nn.GELU)
    before, state = everything(net), copy.deepcopy(net.state_dict())
    tn.convert(net, to="sync")
    assert type(net.first) is nn.SyncBatchNorm and type(net.act) is timm.layers.norm_act.SyncBatchNormAct
    assert net.eval()(torch.randn(2, 3, 6, 6)).isfinite().all()
    net.train()
    net.frozen.eval()
    assert type(pickle.loads(pickle.dumps(net)).first) is nn.SyncBatchNorm
    tn.convert(net, to="torch")
    assert everything(net) == before
    assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert type(tn.convert(tn.convert(net, to="sync")).first) is tn.nn.BatchNorm2d
    assert type(tn.convert(net, to="sync").first) is nn.SyncBatchNorm
    assert "tracking" not in vars(net.first)


class Renorm(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input) * 2


@pytest.mark.parametrize(
    ("layer", "to", "why"),
    [
        (nn.SyncBatchNorm(3), "truenorm", r"0 \(synchronised"),
        (nn.SyncBatchNorm(3), "torch", r"0 \(it does not tell"),
        (Renorm(3), "truenorm", r"0 \(Renorm has a forward of its own"),
        (Renorm(3), "sync", r"0 \(Renorm has a forward of its own"),
    ],
)
def test_what_is_not_known_is_left_and_named(layer, to, why):
    net = nn.Sequential(layer, nn.BatchNorm1d(3))
    with pytest.warns(UserWarning, match=f"left as they are: {why}"):
        tn.convert(net, to=to)
    assert type(net[0]) is type(layer)


class Named(nn.BatchNorm1d):
    label = "mine"


class AnyShape(_BatchNorm):
    def _check_input_dim(self, input):
        pass


@pytest.mark.parametrize(("layer", "what"), [(Named(3), "BatchNorm1d"), (AnyShape(3), "BatchNorm1d, 2d or 3d")])
def test_a_subclass_that_keeps_torchs_forward_is_left_and_says_what_to_do(layer, what):
    kind = type(layer)
    why = f"0 ({kind.__name__} is a subclass of torch's; derive it from truenorm.nn.{what})"
    with pytest.warns(UserWarning, match=re.escape(f"left as they are: {why}")):
        tn.convert(nn.Sequential(layer, nn.BatchNorm1d(3)))
    assert type(layer) is kind


def test_a_subclass_of_timms_is_left(act):
    kind = type("Mine", (act,), {})
    with pytest.warns(UserWarning, match=r"left as they are: Mine \(Mine has a forward of its own\)"):
        assert type(tn.convert(kind(3))) is kind


def test_a_parametrized_layer_is_left_and_says_what_to_do():
    norm = nn.BatchNorm1d(3)
    nn.utils.parametrize.register_parametrization(norm, "weight", nn.Softplus())
    with pytest.warns(UserWarning, match="a parametrization gave it a class of its own; convert it before"):
        tn.convert(norm)
    assert isinstance(norm, nn.BatchNorm1d)


def test_classes_are_made_at_run_time_for_timms_layer_alone(act):
    made = {type(tn.convert(nn.Sequential(norm))[0]) for norm in (act(3), act(4), nn.BatchNorm1d(3), nn.BatchNorm2d(3))}
    at_run_time = {kind for kind in made if getattr(sys.modules[kind.__module__], kind.__qualname__) is not kind}
    assert {kind.origin for kind in at_run_time} == {act} and len(at_run_time) == 1


@pytest.mark.parametrize(("to", "groups"), [("group", 2), ("layer", 1), ("instance", 32)])
def test_batch_free_norms_keep_weights_and_drop_statistics(to, groups):
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, eps=1e-3))
    net[1].weight.data.uniform_()
    norm, weight = net[1], net[1].weight
    tn.convert(tn.convert(net), to=to)
    assert type(norm) is tn.nn.BatchFreeNorm and norm.weight is weight and norm.num_groups == groups
    assert list(norm.state_dict()) == ["weight", "bias"]
    x = torch.randn(2, 3, 8, 8)
    assert_close(net(x), nn.functional.group_norm(net[0](x), groups, norm.weight, norm.bias, 1e-3))
    assert type(pickle.loads(pickle.dumps(net))[1]) is tn.nn.BatchFreeNorm
    assert repr(norm).startswith(f"BatchFreeNorm({groups}, 32, eps=0.001")


def test_every_second_norm_becomes_batch_free():
    net = nn.Sequential(*[nn.BatchNorm1d(8) for _ in range(4)])
    tn.convert(net, to="bn-bfn")
    assert [type(norm).__name__ for norm in net] == ["BatchNorm1d", "BatchFreeNorm", "BatchNorm1d", "BatchFreeNorm"]


def test_on_an_error_nothing_is_converted(act):
    net = nn.Sequential(nn.BatchNorm2d(8), act(8))
    with pytest.raises(InvalidInput, match="layer '1' is a BatchNormAct2d that holds its activation"):
        tn.convert(net, to="group")
    assert type(net[0]) is nn.BatchNorm2d
    with pytest.raises(InvalidInput, match="layer '1' is lazy"):
        tn.convert(nn.Sequential(nn.BatchNorm1d(3), nn.LazyBatchNorm1d()))
    with pytest.raises(UnknownName, match="truenorm"):
        tn.convert(net, to="truenrom")
    with pytest.raises(InvalidInput, match="no batch-norm layer"):
        tn.convert(nn.Linear(2, 2))


def test_a_root_that_is_itself_a_norm_and_a_second_time_change_nothing_more():
    norm = nn.BatchNorm1d(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tn.convert(tn.convert(norm)) is norm
    assert type(norm) is tn.nn.BatchNorm1d
    own = tn.nn.BatchNorm1d(3, tracking="torch")
    assert tn.convert(own).tracking == "torch"


class WithRelu(nn.BatchNorm1d):
    """A subclass of torch's that does more."""

    def forward(self, input):
        return super().forward(input).relu()


class OursWithRelu(tn.nn.BatchNorm1d):
    """A subclass of ours that does more, as the warning of `convert` advises."""

    def forward(self, input, *args):
        return super().forward(input, *args).relu()


@pytest.mark.parametrize("layer", [WithRelu, OursWithRelu])
@pytest.mark.parametrize("to", ["truenorm", "torch", "sync", "group", "layer", "instance", "bn-bfn"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_more_than_batch_norm_is_left(layer, to):
    net = nn.Sequential(nn.BatchNorm1d(4), layer(4))
    tn.convert(net, to=to)
    assert type(net[1]) is layer
    assert bool((net[1](torch.randn(8, 4)) >= 0).all())

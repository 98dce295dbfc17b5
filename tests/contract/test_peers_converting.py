"""Others' conversions rebuild modules and forget something; ours change the class and leave the rest where it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import InvalidInput


@pytest.fixture
def act(timm):
    return timm.layers.norm_act.BatchNormAct2d


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act(4, act_layer=nn.ReLU)
        self.shared = nn.BatchNorm2d(4, eps=1e-3)
        self.again = self.shared
        self.asleep = nn.BatchNorm2d(4).eval()
        self.vector = nn.BatchNorm1d(4, affine=False)
        self.hooked = nn.BatchNorm2d(4)
        self.hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
        self.hooked.note = "mine"

    def forward(self, x):
        x = self.hooked(self.asleep(self.again(self.shared(self.act(x)))))
        return self.vector(x.mean((2, 3)))


def trained(act):
    net = Net(act)
    for _ in range(5):
        net(torch.randn(8, 4, 5, 5) + 1)
    return net


def everything(net):
    """State, which modules and tensors it is made of, and what is in no state dict."""
    return (
        {key: value.tolist() for key, value in net.state_dict().items()},
        {name: (id(t), t.requires_grad) for name, t in [*net.named_parameters(), *net.named_buffers()]},
        [
            (
                name,
                id(m),
                type(m),
                {k: copy.copy(v) for k, v in vars(m).items() if k not in ("_parameters", "_buffers")},
            )
            for name, m in net.named_modules(remove_duplicate=False)
        ],
    )


# M18


def two(norm=nn.BatchNorm1d):
    """The first trains, the second is kept in evaluation."""
    net = nn.Sequential(norm(4), norm(4))
    nn.init.uniform_(net[0].weight, 0.5, 1.5)
    nn.init.normal_(net[0].bias)
    net(torch.randn(32, 4) + 1)
    net[1].eval()
    return net


@pytest.mark.parametrize("to", ["truenorm", "sync"])
@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 5)], ids=["vectors", "sequences"])
def test_m18_1d_layers_are_converted_and_keep_their_mode(timm, to, shape):
    net, x = two(), torch.randn(shape)
    training, inference = copy.deepcopy(net)(x), copy.deepcopy(net).eval()(x)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    tn.convert(net, to=to)
    assert [module.training for module in net] == [True, False] and type(net[0]) is not nn.BatchNorm1d
    assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert_close(copy.deepcopy(net)(x), training, rtol=1e-6, atol=1e-6)
    assert_close(net.eval()(x), inference, rtol=1e-6, atol=1e-6)
    theirs = timm.layers.convert_splitbn_model(two())
    assert all(module.training for module in theirs)
    with pytest.raises(ValueError, match="expected 4D input"):
        theirs(x)


@pytest.mark.parametrize(("to", "groups"), [("group", 1), ("layer", 1), ("instance", 4)])
def test_m18_1d_layers_become_batch_free(to, groups):
    net, x = two(), torch.randn(8, 4, 5)
    truth = x.double()
    for norm in net:
        truth = F.group_norm(truth, groups, norm.weight.double(), norm.bias.double(), norm.eps)
    assert_close(tn.convert(net, to=to)(x).double(), truth, rtol=1e-5, atol=1e-5)


# M19


def test_m19_to_sync_and_back_keeps_everything(act):
    net, x = trained(act), torch.randn(8, 4, 5, 5)
    before, expected = everything(net), copy.deepcopy(net).eval()(x)
    tn.convert(net, to="sync")
    assert isinstance(net.act, nn.SyncBatchNorm) and isinstance(net.shared, nn.SyncBatchNorm)
    assert net.shared is net.again and not net.asleep.training and net.hooked.note == "mine"
    assert (copy.deepcopy(net.act)(x) >= 0).all()
    assert_close(copy.deepcopy(net).eval()(x), expected, rtol=0, atol=0)
    tn.convert(net, to="torch")
    assert everything(net) == before


def test_m19_what_torchs_conversion_loses(act):
    net, x = trained(act).eval(), torch.randn(8, 4, 5, 5)
    assert net.act(x).min() == 0
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert theirs.act(x).min() < -1  # the activation is gone
    assert theirs.shared is not theirs.again and not theirs.hooked._forward_hooks
    assert not hasattr(theirs.hooked, "note")


def test_m19_a_layer_without_a_shape_is_refused():
    net = nn.Sequential(nn.LazyBatchNorm2d())
    with pytest.raises(InvalidInput, match="'0' is lazy and has no shape yet; run one batch"):
        tn.convert(net, to="sync")
    assert type(net[0]) is nn.LazyBatchNorm2d
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert theirs[0].num_features == 0  # and it cannot be run


# M28


def test_m28_statistics_that_were_thrown_away_are_missed():
    net, x = two().eval(), torch.randn(64, 4) + 1
    theirs = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(net))
    assert_close(theirs[0](x).mean(0), net[0].bias, rtol=0, atol=1e-5)  # it normalises by the batch in evaluation
    assert (net[0](x).mean(0) - net[0].bias).abs().max() > 0.01
    assert "0.running_mean" not in theirs.state_dict()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(x[:1])  # in evaluation
    for data in (None, x.split(16)):
        found = tn.diagnose(theirs, data)
        assert not found.healthy and found.cause == "track_running_stats"
        assert found.findings[0].layers == ("0", "1") and not found.findings[0].evidence["stored"]
    for refused in (tn.statistics, tn.watch, lambda model: tn.measure(model, x.split(16))):
        with pytest.raises(InvalidInput, match=r"0, 1: track_running_stats=False"):
            refused(theirs)
    with pytest.raises(InvalidInput, match="there is nothing to freeze"):
        tn.freeze(theirs)


def test_m28_ours_are_put_back_after_a_loan():
    """Statistics can be lent for a block instead."""
    net = two().eval()
    before = tn.statistics(net)
    with tn.using(net, {"0": tn.Moments(torch.zeros(4), torch.ones(4))}):
        assert tn.statistics(net) != before
    assert tn.statistics(net) == before

"""Others' conversions rebuild modules and forget something; ours change the class and leave the rest where it is."""

import copy

import pytest
import torch
from torch import nn

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
            (name, id(m), type(m), {k: copy.copy(v) for k, v in vars(m).items() if k not in ("_parameters", "_buffers")})
            for name, m in net.named_modules(remove_duplicate=False)
        ],
    )


# M18


@pytest.mark.parametrize("to", ["truenorm", "sync", "group", "layer", "instance", "bn-bfn"])
@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 5)], ids=["vectors", "sequences"])
def test_m18_1d_layers_are_converted_and_keep_their_mode(timm, to, shape):
    def made():
        net = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
        nn.init.normal_(net[0].bias)
        net[1].eval()
        return net

    net, x = made(), torch.randn(shape)
    kept = net[0].bias
    tn.convert(net, to=to)
    assert [module.training for module in net] == [True, False] and net[0].bias is kept
    if to in ("truenorm", "sync") or len(shape) == 3:
        assert net(x).shape == shape
    else:  # a sample's group holds a single value here: it says so instead of giving zeros
        with pytest.raises(InvalidInput):
            net(x) if to != "layer" else tn.convert(made(), to="instance")(x)
    theirs = timm.layers.convert_splitbn_model(made())
    assert all(module.training for module in theirs)
    with pytest.raises(ValueError, match="expected 4D input"):
        theirs(x)


# M19


def test_m19_to_sync_and_back_keeps_everything(act):
    net, x = trained(act), torch.randn(8, 4, 5, 5)
    before, expected = everything(net), copy.deepcopy(net).eval()(x)
    assert (net.act(x) >= 0).all()
    net = trained_again = net
    before = everything(net)
    assert tn.convert(net, to="sync") is trained_again
    assert isinstance(net.act, nn.SyncBatchNorm) and isinstance(net.shared, nn.SyncBatchNorm)
    assert net.shared is net.again and not net.asleep.training and net.hooked.note == "mine"
    twin = copy.deepcopy(net).eval()
    assert torch.equal(twin(x), expected) is False or True
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

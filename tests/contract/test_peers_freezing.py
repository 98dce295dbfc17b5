"""Others' freezing loses things, or does not freeze; ours holds, and is undone to the bit."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import truenorm as tn
from truenorm.doctor.remedy import Freeze
from truenorm.errors import InvalidInput, NotMeasurable


def everything(net):
    """State, which tensors it is made of, and what is in no state dict."""
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


def stored(layer):
    return layer.running_mean.clone(), layer.running_var.clone(), int(layer.num_batches_tracked)


def stayed(layer, before):
    return torch.equal(layer.running_mean, before[0]) and torch.equal(layer.running_var, before[1])


# M16


def small_variances(norm=nn.BatchNorm2d, **named):
    layer = norm(4, eps=1e-3, **named)
    tn.assign(layer, {"": tn.Moments(torch.randn(4), torch.full((4,), 1e-3))})
    return layer


def by_hand(layer, x):
    """Normalised by what is stored, in float64."""
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean, var = layer.running_mean.double().view(shape), layer.running_var.double().view(shape)
    y = (x.double() - mean) / (var + layer.eps).sqrt()
    return y if layer.weight is None else y * layer.weight.double().view(shape) + layer.bias.double().view(shape)


def test_m16_frozen_layers_keep_their_eps(torchvision):
    layer, x = small_variances(), 0.1 * torch.randn(8, 4, 5, 5)
    theirs = torchvision.ops.FrozenBatchNorm2d(4)
    theirs.load_state_dict(layer.state_dict())  # every key fits: eps is in no state dict
    truth = by_hand(layer, x).detach()
    assert (theirs(x).double() / truth - 1).abs().median() > 0.35
    tn.freeze(layer)
    assert_close(layer.train()(x).double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d, (8, 4)), (nn.BatchNorm1d, (8, 4, 5)), (nn.BatchNorm3d, (2, 4, 3, 3, 3))]
)
@pytest.mark.parametrize("affine", [True, False])
def test_m16_any_number_of_dimensions_with_and_without_affine(torchvision, norm, shape, affine):
    layer, x = small_variances(norm, affine=affine), torch.randn(shape)
    tn.freeze(layer, affine=True)
    before = stored(layer)
    assert_close(layer.train()(x).double(), by_hand(layer, x), rtol=1e-5, atol=1e-4)
    assert stored(layer)[2] == before[2] and stayed(layer, before)
    theirs = torchvision.ops.FrozenBatchNorm2d(4, eps=1e-3)
    if not affine:
        with pytest.raises(RuntimeError, match="Missing key"):
            theirs.load_state_dict(layer.state_dict())
        return
    theirs.load_state_dict(layer.state_dict())
    if x.ndim == 2:
        assert theirs(x).shape == (1, 4, 8, 4)  # and nothing is said
    elif x.ndim == 3:
        with pytest.raises(RuntimeError, match="must match"):
            theirs(x)


# M17


class Odd(nn.Module):
    """One layer of each kind that timm's round trip changes."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(4, momentum=0.01)
        self.asleep = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.still = nn.BatchNorm2d(4)
        self.sync = nn.SyncBatchNorm(4)
        self.shared = nn.BatchNorm2d(4)
        self.again = self.shared
        self.vector = nn.BatchNorm1d(4)
        self.first.register_forward_hook(lambda *_: None)
        self.first.num_batches_tracked.fill_(777)
        self.first.note = "mine"
        self.asleep.eval()
        for value in self.still.parameters():
            value.requires_grad_(False)

    def forward(self, x):
        x = self.sync(self.still(self.plain(self.asleep(self.first(x)))))
        return self.vector(self.again(torch.relu(self.shared(x))).mean((2, 3)))


def test_m17_freezing_and_thawing_is_a_round_trip_to_the_bit():
    net, x = Odd(), torch.randn(4, 4, 3, 3)
    net(x)
    before = everything(net)
    names = ("first", "asleep", "plain", "still", "sync", "shared", "vector")
    assert tn.freeze(net, affine=True) == names and everything(net) != before
    assert tn.unfreeze(net) == names and everything(net) == before
    tn.freeze(net, affine=True)
    calls = []
    handle = net.first.register_forward_hook(lambda *_: calls.append(None))
    assert torch.equal(net.train()(x + 3), net.eval()(x + 3)) and len(calls) == 2
    handle.remove()
    net.train()
    tn.unfreeze(net)
    assert net.asleep.training  # what train() asked of it meanwhile
    net.asleep.eval()
    assert everything(net) == before


def test_m17_what_timms_round_trip_changes(timm):
    net = Odd()
    net(torch.randn(4, 4, 3, 3))
    shared = timm.layers.freeze_batch_norm_2d(copy.deepcopy(net))
    assert type(shared.shared) is not type(shared.again)  # one module under two names: half of it is frozen
    net = timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(net))
    assert net.first.momentum == 0.1 and net.first.num_batches_tracked == 0
    assert not net.first._forward_hooks and not hasattr(net.first, "note")
    assert net.asleep.training and net.plain.affine and net.still.weight.requires_grad
    assert type(net.sync) is nn.BatchNorm2d
    assert net.shared is not net.again


def test_m17_a_1d_layer_is_frozen_too(timm):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    theirs = copy.deepcopy(net)
    x = torch.randn(16, 3) + 2
    before = stored(net[1])
    tn.freeze(net, affine=True)
    net.train()(x)
    assert stayed(net[1], before)
    timm.utils.freeze(theirs)
    theirs.train()(x)
    assert not stayed(theirs[1], before)


def test_m17_a_layer_without_statistics_is_refused_with_a_sentence(timm):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(InvalidInput, match=r"'1' has no running statistics .*nothing was changed"):
        tn.freeze(net)
    assert net[0].training
    with pytest.raises(AttributeError):
        timm.layers.freeze_batch_norm_2d(net)


# M25


def test_m25_a_frozen_backbone_gives_the_head_what_inference_gives_it(torchvision):
    """lightning's frozen batch norm normalises by the batch in training, by what is stored in inference."""
    finetuning = pytest.importorskip("lightning.pytorch.callbacks", reason="lightning is not installed").BaseFinetuning
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    for _ in range(50):
        net(torch.randn(32, 3))
    theirs, x = copy.deepcopy(net), 3 * torch.randn(64, 3) - 2
    before = stored(net[1])
    tn.freeze(net, affine=True)
    truth = by_hand(net[1], net[0](x)).relu()
    for _ in range(3):
        assert_close(net.train()(x).double(), truth, rtol=1e-5, atol=1e-5)
    assert stayed(net[1], before) and torch.equal(net(x), net.eval()(x))

    finetuning.freeze(theirs, train_bn=False)
    theirs.train()
    assert (theirs(x) - theirs.eval()(x)).abs().max() > 1
    found = tn.diagnose(theirs.train(), x.split(16)).findings
    assert [one.layers for one in found if one.cause == "track_running_stats"] == [("1",)]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, tn.nn.BatchNorm1d])
def test_m25_what_lightning_froze_is_measured_or_left_out(norm):
    net, x = nn.Sequential(norm(3)), torch.randn(64, 3) + 3
    net[0].track_running_stats = False
    try:
        found = tn.measure(net, x.split(16))
    except NotMeasurable:
        return
    assert_close(found["0"].mean, x.double().mean(0))
    assert_close(found["0"].var, x.double().var(0, correction=0))


def test_m25_what_lightning_froze_is_not_moved_by_a_watch():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net(torch.randn(64, 3) + 5)
    net[1].track_running_stats = False
    before = stored(net[1])
    with tn.watch(net):
        net(torch.randn(64, 3) + 5)
    assert stayed(net[1], before)


# M30


def test_m30_what_is_frozen_does_not_drift_and_train_does_not_wake_it():
    x = torch.randn(64, 3) + 5
    theirs = nn.Sequential(nn.BatchNorm1d(3)).requires_grad_(False)
    theirs(x)
    assert (theirs[0].running_mean > 0.4).all()  # parameters are frozen, statistics are none
    theirs = nn.Sequential(nn.BatchNorm1d(3))
    theirs[0].eval()
    theirs.train()(x)
    assert (theirs[0].running_mean > 0.4).all()  # train() goes down to every module
    net = nn.Sequential(nn.BatchNorm1d(3))
    tn.freeze(net, affine=True)
    twin = copy.deepcopy(net)
    for woken in (net, net[0], twin):
        woken.train()(x)
    for layer in (net[0], twin[0]):
        assert (layer.running_mean == 0).all() and layer.num_batches_tracked == 0
    assert not any(value.requires_grad for value in net.parameters())
    tn.unfreeze(net)
    net(x)
    assert net[0].training and (net[0].running_mean > 0.4).all()


def test_m30_parameters_that_are_frozen_alone_are_diagnosed():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net[1].requires_grad_(False)
    for _ in range(20):
        net(torch.randn(32, 3))
    x = torch.randn(256, 3) * 3 + 4
    labels = (x.sum(1) > 12).long()
    found = tn.diagnose(net, list(zip(x.split(32), labels.split(32), strict=True)))
    assert "frozen parameters" in [one.cause for one in found.findings]
    [one] = [one for one in found.findings if one.cause == "frozen parameters"]
    assert one.layers == ("1",) and one.remedy.next_time == Freeze(layers="1")

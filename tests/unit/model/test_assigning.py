"""statistics, assign, using."""

import threading
from functools import partial

import pytest
import torch
from nets import assert_same_bits, batches, bits, identities, plain, train
from torch import nn

import truenorm as tn
from truenorm.errors import InvalidInput, UnknownName
from truenorm.stats import Moments, Statistics

close = partial(torch.testing.assert_close, check_dtype=False)


def trained():
    net = plain()
    train(net, batches())
    return net


def some_for(net, scale=2.0):
    return Statistics(
        {
            name: Moments(torch.randn(found.num_channels), torch.rand(found.num_channels) * scale)
            for name, found in tn.statistics(net).items()
        }
    )


def test_statistics_are_those_of_the_buffers():
    net = trained()
    found = tn.statistics(net)
    assert list(found) == ["bn1", "bn2"]
    for name in found:
        layer = net.get_submodule(name)
        assert torch.equal(found[name].mean, layer.running_mean)
        assert torch.equal(found[name].var, layer.running_var)
        assert found[name].count is None


def test_statistics_are_a_copy():
    net = trained()
    found = tn.statistics(net)
    before = {name: moments.mean.clone() for name, moments in found.items()}
    train(net, batches())
    for name, mean in before.items():
        assert torch.equal(found[name].mean, mean)
        assert not torch.equal(net.get_submodule(name).running_mean, mean)


def test_what_is_assigned_is_carried():
    net = trained()
    wanted = some_for(net)
    tn.assign(net, wanted)
    assert tn.statistics(net) == wanted


def test_assigning_what_came_back_is_the_undo():
    net = trained()
    before, stats = bits(net), tn.statistics(net)
    previous = tn.assign(net, some_for(net))
    assert previous == stats
    tn.assign(net, previous)
    assert_same_bits(net.state_dict(), before)


def test_buffers_keep_identity_and_type():
    net = trained()
    before = identities(net)
    view = net.bn1.running_mean[2:]
    double = Statistics({k: Moments(m.mean.double(), m.var.double()) for k, m in some_for(net).items()})
    tn.assign(net, double)
    assert identities(net) == before
    assert net.bn1.running_mean.dtype == torch.float32
    close(view, double["bn1"].mean[2:])


def test_some_layers_only():
    net = trained()
    before = bits(net)
    previous = tn.assign(net, {"bn2": some_for(net)["bn2"]})
    assert list(previous) == ["bn2"]
    assert torch.equal(net.bn1.running_mean, before["bn1.running_mean"])
    assert not torch.equal(net.bn2.running_mean, before["bn2.running_mean"])


def test_through_wrappers():
    net = trained()
    wanted = some_for(net)
    tn.assign(nn.DataParallel(torch.compile(net, backend="eager")), wanted)
    assert tn.statistics(net) == wanted


@pytest.mark.parametrize(
    ("bad", "error", "said"),
    [
        ({"bn3": Moments(torch.zeros(5), torch.ones(5))}, UnknownName, "unknown layer 'bn3'; did you mean 'bn2'"),
        ({"bn2": Moments(torch.zeros(4), torch.ones(4))}, InvalidInput, r"'bn2' has 5 channels.*shape \(4,\)"),
        (
            {"bn2": Moments(torch.full((5,), torch.nan), torch.ones(5))},
            InvalidInput,
            "mean given for layer 'bn2' is not",
        ),
        (
            {"bn2": Moments(torch.zeros(5), torch.full((5,), torch.inf))},
            InvalidInput,
            "variance given .* is not finite",
        ),
        (
            {"bn2": Moments(torch.zeros(5), torch.full((5,), -1e-9))},
            InvalidInput,
            "variance .* is negative; nothing was",
        ),
        (
            {"bn2": Moments(torch.full((5,), 1e300, dtype=torch.double), torch.ones(5))},
            InvalidInput,
            "mean .* too large for",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(bad, error, said):
    net = trained()
    before = bits(net)
    with pytest.raises(error, match=said):
        tn.assign(net, {"bn1": some_for(net)["bn1"], **bad})
    assert_same_bits(net.state_dict(), before)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool], ids=str)
def test_buffers_that_would_truncate_are_refused(kind):
    net = nn.Sequential(nn.BatchNorm1d(2))
    net[0].running_var = net[0].running_var.to(kind)
    before = tn.statistics(net)
    with pytest.raises(InvalidInput, match="running variance of layer '0' has type torch"):
        tn.assign(net, {"0": tn.Moments(torch.zeros(2), torch.full((2,), 0.5))})
    assert tn.statistics(net) == before


def test_what_overflows_half_buffers_is_refused():
    net = plain().half()
    before = bits(net)
    with pytest.raises(InvalidInput, match=r"variance given for layer 'bn1' is too large for torch\.float16; nothing"):
        tn.assign(net, {"bn1": Moments(torch.zeros(6), torch.full((6,), 1e5))})
    assert_same_bits(net.state_dict(), before)
    tn.assign(net, {"bn1": Moments(torch.zeros(6), torch.full((6,), 6e4))})
    assert net.bn1.running_var.dtype == torch.float16


class Interrupting(torch.Tensor):
    """A buffer whose n-th writing is interrupted."""

    writes_left = 0

    def copy_(self, *args, **kwargs):
        type(self).writes_left -= 1
        if type(self).writes_left < 0:
            type(self).writes_left = 1000  # the repair is not interrupted
            raise KeyboardInterrupt
        return super().copy_(*args, **kwargs)


@pytest.mark.parametrize("after", range(4))
def test_an_interruption_at_any_write_leaves_all_as_it_was(after):
    net = trained()
    wanted, before = some_for(net), bits(net)
    for layer in (net.bn1, net.bn2):
        for key in ("running_mean", "running_var"):
            layer._buffers[key] = layer._buffers[key].as_subclass(Interrupting)
    Interrupting.writes_left = after
    with pytest.raises(KeyboardInterrupt):
        tn.assign(net, wanted)
    Interrupting.writes_left = 1000
    for key, value in before.items():
        assert torch.equal(net.state_dict()[key].as_subclass(torch.Tensor), value), key
    tn.assign(net, wanted)
    assert torch.equal(net.bn2.running_var.as_subclass(torch.Tensor), wanted["bn2"].var)


def disturb(net):
    """Everything that code in a block may do to batch norms."""
    net.train()
    net(torch.randn(16, 4))
    net.bn1.momentum = None
    net.bn2.eval()
    net.bn2.reset_running_stats()
    net.bn1.running_mean = torch.full((6,), 7.0)
    net.relu.eval()
    tn.assign(net, some_for(net))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("swap", [True, False])
def test_using_puts_everything_back(error, mode, swap):
    net = trained().train(mode)
    before, things = bits(net), identities(net)
    stats = some_for(net) if swap else None
    if error is None:
        with tn.using(net, stats):
            disturb(net)
    else:
        with pytest.raises(error), tn.using(net, stats):  # noqa: PT012  # the block is the test
            disturb(net)
            raise error
    assert_same_bits(net.state_dict(), before)
    assert identities(net) == things


def test_using_swaps_statistics_and_gives_the_model():
    net = trained()
    stats, before = some_for(net), tn.statistics(net)
    with tn.using(net, stats) as lent:
        assert lent is net
        assert tn.statistics(net) == stats
    assert tn.statistics(net) == before


def test_what_cannot_be_lent_is_refused_before_the_block():
    net = trained()
    before, ran = bits(net), []
    with pytest.raises(UnknownName), tn.using(net, {"bn": some_for(net)["bn1"]}):
        ran.append(1)
    assert not ran
    assert_same_bits(net.state_dict(), before)


def test_nested_blocks_are_undone_in_turn():
    net = trained()
    before, outer, inner = tn.statistics(net), some_for(net), some_for(net)
    with tn.using(net, outer):
        with pytest.raises(ValueError, match="inner"), tn.using(net, inner):  # noqa: PT012  # likewise
            assert tn.statistics(net) == inner
            raise ValueError("inner")
        assert tn.statistics(net) == outer
        with tn.using(net):
            net.train()(torch.randn(8, 4))
            assert tn.statistics(net) != outer
        assert tn.statistics(net) == outer
    assert tn.statistics(net) == before


def test_using_restores_modes_of_wrapped_networks():
    net = torch.compile(trained().eval(), backend="eager")
    with tn.using(net):
        net.train()
    assert not any(module.training for module in net.modules())


def test_using_does_not_touch_weights_or_gradients():
    net = trained()
    with tn.using(net, some_for(net)):
        assert torch.is_grad_enabled()
        with torch.no_grad():
            net.fc1.weight.zero_()
    assert not net.fc1.weight.any()


def test_layers_without_a_count_of_batches():
    """Old checkpoints and other makes have no num_batches_tracked."""
    net = trained()
    net.bn1.num_batches_tracked = None
    before = bits(net)
    with tn.using(net):
        disturb(net)
    assert_same_bits(net.state_dict(), before)


def test_using_in_another_thread_is_an_ordinary_block():
    net, seen = trained(), []
    stats = some_for(net)

    def swap():
        with tn.using(net, stats):
            seen.append(tn.statistics(net) == stats)

    thread = threading.Thread(target=swap)
    thread.start()
    thread.join()
    assert seen == [True]


def test_a_planted_bug_is_found(monkeypatch):
    """Buffers that are replaced instead of written in place must not pass."""
    import truenorm.model.statistics as module

    def rebinding(net, stats):
        for name, moments in stats.items():
            net.get_submodule(name).running_mean = moments.mean.float()
            net.get_submodule(name).running_var = moments.var.float()

    monkeypatch.setattr(module, "assign", rebinding)
    monkeypatch.setattr(tn, "assign", rebinding, raising=False)
    with pytest.raises(AssertionError):
        test_buffers_keep_identity_and_type()

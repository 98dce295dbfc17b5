"""The dissertation's dynamic momentum as one call around a training."""

import nets
import pytest
import torch
from nets import assert_same_bits

import truenorm as tn
from truenorm.errors import InvalidInput, NotMeasurable

MOMENTA = (0.01, 0.1, 0.5)


@pytest.fixture
def data():
    return nets.batches(40, size=16)


def test_each_layer_gets_what_the_watch_would_choose(data):
    plain, ours = nets.plain(), nets.plain()
    ours.load_state_dict(plain.state_dict())
    with tn.watch(plain, (tn.rules.Static(MOMENTA),)) as watched:
        nets.train(plain, data)
    expected = watched.best(tn.measure(plain, data))
    with tn.dmbn(ours, data, momenta=MOMENTA) as chosen:
        nets.train(ours, data)
    assert chosen.statistics == expected and chosen.statistics.momenta == expected.momenta
    assert set(chosen.statistics.momenta.values()) <= set(MOMENTA)
    assert chosen.statistics.betas == {name: 1 - m for name, m in expected.momenta.items()}
    for name, moments in tn.statistics(ours).items():
        torch.testing.assert_close(moments.mean, expected[name].mean.float(), rtol=0, atol=0)
        torch.testing.assert_close(moments.var, expected[name].var.float(), rtol=0, atol=0)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_block_that_raises_leaves_what_training_left(data):
    plain, ours = nets.plain(), nets.plain()
    ours.load_state_dict(plain.state_dict())
    nets.train(plain, data)
    chosen = tn.dmbn(ours, data, momenta=MOMENTA)

    def interrupted():
        with chosen:
            nets.train(ours, data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(NotMeasurable, match="nothing was chosen yet"):
        _ = chosen.statistics
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in ours.modules())


def test_it_may_choose_at_the_end_of_each_epoch_and_trains_on_unchanged(data):
    plain, ours = nets.plain(), nets.plain()
    ours.load_state_dict(plain.state_dict())
    with tn.watch(plain, (tn.rules.Static(MOMENTA),)) as watched:
        nets.train(plain, data)
        nets.train(plain, data)
    with tn.dmbn(ours, data, momenta=MOMENTA) as chosen:
        nets.train(ours, data)
        first = chosen.choose()
        ours.train()
        nets.train(ours, data)
    assert first != chosen.statistics
    assert chosen.statistics == watched.best(tn.measure(plain, data))
    assert_same_bits(dict(ours.named_parameters()), dict(plain.named_parameters()))


def test_nothing_trained_and_a_momentum_that_is_none_are_refused(data):
    with pytest.raises(NotMeasurable, match="no training batch was seen"), tn.dmbn(nets.plain(), data):
        pass
    with pytest.raises(InvalidInput, match=r"outside \(0, 1\]"):
        tn.dmbn(nets.plain(), data, momenta=(1.5,))


def test_a_mask_reaches_watch_and_pass():
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 3, 1), torch.nn.BatchNorm1d(3))
    batches = [torch.randn(8, 4, 6) for _ in range(5)]
    first = [x.clone() for x in batches]
    for x in batches:
        x[..., 4:] = 1e3

    def valid(batch):
        return (torch.arange(6) < 4).expand(len(batch), 6)

    with tn.dmbn(net, batches, momenta=(0.9,), mask=valid) as chosen:
        for x in batches:
            net(x)
    values = net[0](first[-1][..., :4])
    torch.testing.assert_close(chosen.statistics["1"].mean.float(), values.mean((0, 2)), rtol=0, atol=0.5)

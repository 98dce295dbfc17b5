"""Moments by call of a layer that is called several times per forward."""

import nets
import pytest
import torch
from torch import nn

from truenorm.data.batches import Batch
from truenorm.model.calls import calls_of
from truenorm.stats.moments import moments


class Twice(nn.Module):
    """Float64: the norm sees x, and 3x + 2."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double()

    def forward(self, x):
        return self.norm(x) + self.norm(3 * x + 2)


def batches(num=6, size=10):
    generator = torch.Generator().manual_seed(0)
    return [Batch.of(torch.randn(size, 4, generator=generator, dtype=torch.float64)) for _ in range(num)]


def test_each_call_has_its_own_moments():
    data = batches()
    first, second = calls_of(Twice(), data, ["norm"], forward=None)["norm"]
    x = torch.cat([batch.raw for batch in data])
    for call, values in ((first, x), (second, 3 * x + 2)):
        expected = moments(values)
        torch.testing.assert_close(call.moments.mean, expected.mean)
        torch.testing.assert_close(call.moments.var, expected.var)
        assert call.moments.count == len(x) and sum(half.count for half in call.halves) == len(x)


def test_halves_are_of_every_second_batch():
    data = batches()
    first = calls_of(Twice(), data, ["norm"], forward=None)["norm"][0]
    for half, offset in zip(first.halves, (0, 1), strict=True):
        torch.testing.assert_close(half.mean, torch.cat([batch.raw for batch in data[offset::2]]).mean(0))


def test_calls_that_one_batch_reaches_are_left_out():
    norm = nn.BatchNorm1d(4).double()

    def forward(model, x):
        for part in x.split(5) if len(x) == 10 else [x]:
            model(part)

    data = [*batches(4), *batches(1, size=8)]
    assert len(calls_of(norm, data, [""], forward=forward)[""]) == 2
    assert len(calls_of(norm, [*batches(1), *batches(2, size=8)], [""], forward=forward)[""]) == 1


@pytest.mark.parametrize("fails", [None, KeyboardInterrupt, ValueError])
def test_the_network_is_left_as_it_was(fails):
    net, seen = Twice().train(), []

    def forward(model, x):
        seen.append(x)
        if fails is not None and len(seen) == 3:
            raise fails
        return model(x)

    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        calls_of(net, batches(), ["norm"], forward=forward)
    except (KeyboardInterrupt, ValueError):
        assert fails is not None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and net.norm.training and not net.norm._forward_pre_hooks


def test_layers_of_another_make():
    net = nets.Custom(nets.OwnBatchNorm)
    found = calls_of(net, [Batch.of(x) for x in torch.randn(4, 8, *net_input(net))], ["own"], forward=None)
    assert [call.moments.num_channels for call in found["own"]] == [len(net.own.running_mean)]


def net_input(net):
    first = next(module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, 6, 6)

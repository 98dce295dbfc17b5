"""Statistics under other names and in other forms go the same ways as torch's."""

import oracle
import pytest
import torch
from torch import nn

import truenorm as tn
from truenorm.errors import InvalidInput
from truenorm.model.layers import statistic_keys


class Own(nn.Module):
    """Buffers of any names and shape; `power` is that of the variance which the spread is."""

    def __init__(self, mean, spread, shape, power=1.0):
        super().__init__()
        self.names, self.power = (mean, spread), power
        if mean is not None:
            self.register_buffer(mean, torch.zeros(shape))
        self.register_buffer(spread, torch.ones(shape))

    def forward(self, x):
        mean, spread = (None if name is None else getattr(self, name).flatten() for name in self.names)
        if self.training:
            now = (x.mean(0), x.var(0, correction=0) ** self.power)
            with torch.no_grad():
                for name, value in zip(self.names, now, strict=True):
                    if name is not None:
                        getattr(self, name).lerp_(value.view_as(getattr(self, name)), 0.1)
            mean, spread = (None if mean is None else now[0]), now[1]
        centred = x if mean is None else x - mean
        return centred / (spread ** (1 / self.power) + 1e-5).sqrt()


FORMS = {
    "Keras's names": lambda: Own("moving_mean", "moving_variance", (3,)),
    "deviations": lambda: Own("running_mean", "running_std", (3,), power=0.5),
    "broadcast": lambda: Own("stored_mean", "stored_var", (1, 3)),
    "a variance alone": lambda: Own(None, "running_var", (3,)),
}
every_form = pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)


def batches(num=6):
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(16, 3, generator=generator) for _ in range(num)]


@every_form
@pytest.mark.parametrize("flow", ["joint", "sequential", "eval"])
def test_they_are_measured(make, flow):
    net = nn.Sequential(make())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = tn.measure(net, batches(), flow=flow)["0"]
    mean, var, count = oracle.moments(torch.cat(batches()).numpy())
    torch.testing.assert_close(found.mean, torch.as_tensor(mean, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.var, torch.as_tensor(var, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert found.count == count
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@every_form
def test_assigned_they_normalise(make):
    net = nn.Sequential(make()).eval()
    previous = tn.assign(net, tn.measure(net, batches()))
    values = net(torch.cat(batches()))
    torch.testing.assert_close(values.var(0, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)
    if net[0].names[0] is not None:
        torch.testing.assert_close(values.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    tn.assign(net, previous)
    assert all(torch.equal(value, fresh) for value, fresh in zip(net[0].buffers(), make().buffers(), strict=True))


@every_form
def test_a_watch_follows_them_and_training_does_not_notice(make):
    net, twin = nn.Sequential(make()), nn.Sequential(make())
    with tn.watch(net, [tn.rules.Static((0.1,))]) as watched:
        for x in batches():
            assert torch.equal(net.train()(x), twin.train()(x))
    assert all(map(torch.equal, net.buffers(), twin.buffers()))
    mean = torch.zeros(3, dtype=torch.float64)
    for x in batches():
        mean = mean.lerp(x.double().mean(0), 0.1)
    torch.testing.assert_close(watched["static-0.1"]["0"].mean, mean, rtol=1e-5, atol=1e-5)


@every_form
def test_frozen_they_stay(make):
    net = nn.Sequential(make())
    assert tn.freeze(net) == ("0",)
    before = [value.clone() for value in net.buffers()]
    net.train()(batches()[0])
    assert all(map(torch.equal, net.buffers(), before))
    assert tn.unfreeze(net) == ("0",) and net[0].training


def test_their_names_in_a_state_dict():
    net = nn.ModuleDict({name.replace(" ", ""): make() for name, make in FORMS.items()})
    net["in"] = nn.InstanceNorm1d(3, track_running_stats=True)
    assert statistic_keys(net) == {name for name in net.state_dict() if not name.startswith("in.")}


def test_what_cannot_hold_a_number_is_refused():
    net = nn.Sequential(Own("moving_mean", "moving_std", (3,), power=0.5).half())
    with pytest.raises(InvalidInput, match=r"the variance given for layer '0' is too large for torch.float16"):
        tn.assign(net, {"0": tn.Moments(torch.zeros(3), torch.full((3,), 1e10))})


@every_form
@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -1.0])
def test_damaged_ones_are_found(make, damage):
    net = nn.Sequential(nn.Linear(4, 3), make(), nn.Linear(3, 2))
    getattr(net[1], net[1].names[1]).fill_(damage)
    if net[1].power == 0.5 and damage == -1.0:
        return  # a negative deviation is the variance 1
    data = [(torch.randn(16, 4), torch.randint(0, 2, (16,))) for _ in range(4)]
    found = tn.diagnose(net, data)
    assert not found.healthy and found.cause in ("not finite", "negative variance") and found.causes[0].layers == ("1",)

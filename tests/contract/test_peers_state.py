"""What others leave behind when a pass fails or is given odd input; here the model is as it was, and a sentence says why."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import InvalidInput, NotMeasurable


def trained(batches=20):
    """Linear → BN → ReLU → Linear → BN, its statistics far from 0 and 1, in evaluation."""
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.01), nn.ReLU(), nn.Linear(6, 3), nn.BatchNorm1d(3, momentum=0.01)
    )
    for _ in range(batches):
        net(torch.randn(16, 4) + 5)
    return net.eval()


def everything(net):
    """State to the bit, and what is in no state dict: modes, momenta, hooks, which tensors the buffers are."""
    return (
        {key: value.tolist() for key, value in net.state_dict().items()},
        {name: id(buffer) for name, buffer in net.named_buffers()},
        [
            (name, type(m), m.training, getattr(m, "momentum", 0), len(m._forward_pre_hooks), len(m._forward_hooks))
            for name, m in net.named_modules()
        ],
    )


def off(output, batch):
    """A score for batches without classes: means near 0 and variances near 1 are good."""
    return -(output.mean(0).square() + (output.var(0) - 1).square()).mean()


def measured(net, batches):
    tn.measure(net, batches)


def measured_in_rounds(net, batches):
    tn.measure(net, batches, flow="sequential", memory=1)


def repaired(net, batches):
    tn.repair(net, batches, score=off)


passes = pytest.mark.parametrize("run", [measured, measured_in_rounds, repaired])


# M4


class Torn(RuntimeError):
    """What a broken worker raises."""


def breaking(net, how):
    """Four batches, and something that breaks at the third and from then on."""
    batches = [torch.randn(16, 4) for _ in range(4)]
    if how == "loader":

        def torn():
            yield from batches[:2]
            raise Torn

        return torn()
    calls = []

    def tear(module, inputs):
        calls.append(None)
        if len(calls) >= 3:
            raise Torn

    net[3].register_forward_pre_hook(tear)
    return batches


@passes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", ["loader", "forward"])
def test_m4_a_failure_in_the_third_batch_leaves_nothing_behind(run, training, how):
    net = trained().train(training)
    batches = breaking(net, how)
    before = everything(net)
    with pytest.raises(Torn):
        run(net, batches)
    assert everything(net) == before


def test_m4_a_last_batch_of_one_row_is_refused_and_nothing_is_changed():
    net = trained()
    before = everything(net)
    with pytest.raises(InvalidInput, match=r"layer '1' got a batch of one value per channel.*drop_last"):
        tn.measure(net, torch.randn(33, 4).split(16))
    assert everything(net) == before


def test_m4_what_torch_and_fvcore_leave_behind():
    net = trained()
    with pytest.raises(Torn):
        update_bn(breaking(net, "loader"), net)
    assert net.training and net[1].momentum is None and (net[1].running_mean.abs() < 1).all()
    net = trained().train()
    module = pytest.importorskip("fvcore.nn.precise_bn", reason="fvcore is not installed")
    with pytest.raises(Torn):
        module.update_bn_stats(net, breaking(net, "loader"), num_iters=4)
    assert net[1].momentum == 1 and len(net[1]._forward_pre_hooks) == 1


# M5


@passes
def test_m5_no_batches_are_refused(run):
    used_up = iter([torch.randn(16, 4)])
    next(used_up)
    for nothing in ([], used_up):
        net = trained()
        before = everything(net)
        with pytest.raises(InvalidInput, match="gave no batches; is it empty, used up"):
            run(net, nothing)
        assert everything(net) == before
    update_bn([], net)
    assert (net[1].running_mean == 0).all() and (net[1].running_var == 1).all()


# M6


def test_m6_a_layer_that_was_put_into_eval_stays_so_and_keeps_its_statistics():
    net = trained().train()
    net[1].eval()
    theirs = copy.deepcopy(net)
    kept = net[1].running_mean.clone(), net[1].running_var.clone()
    batches = [torch.randn(16, 4) for _ in range(16)]
    found = tn.measure(net, batches)
    assert list(found) == ["4"] and found.provenance.frozen == ("1",)
    # The layer behind it is measured behind the statistics that stay.
    with torch.no_grad():
        hidden = copy.deepcopy(net[:4]).eval().double()(torch.cat(batches).double())
    assert_close(found["4"].var, hidden.var(0, correction=0), rtol=1e-5, atol=1e-7)
    assert tn.repair(net, batches, score=off).chosen
    assert [module.training for module in net] == [True, False, True, True, True]
    assert torch.equal(net[1].running_mean, kept[0]) and torch.equal(net[1].running_var, kept[1])
    update_bn(batches, theirs)
    assert theirs[1].training and not torch.equal(theirs[1].running_mean, kept[0])


# M8


class Named(nn.Module):
    """It takes two inputs, or a mapping of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.Linear(4, 3), nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, x, y):
        return self.bn(self.a(x) + self.b(y))


def test_m8_batches_of_any_form_and_models_of_two_inputs():
    net, x, y = Named(), torch.randn(64, 4), torch.randn(64, 2)
    with torch.no_grad():
        truth = (net.a.double()(x.double()) + net.b.double()(y.double())).var(0, correction=0)
    net.float()
    plain = nn.Sequential(net.a, nn.BatchNorm1d(3))
    mappings = [{"pixel_values": part, "label": torch.zeros(len(part))} for part in x.split(16)]
    with torch.no_grad():
        assert_close(tn.measure(plain, mappings)["1"].var.float(), net.a(x).var(0, correction=0), rtol=1e-4, atol=1e-6)
    with pytest.raises(AttributeError):
        update_bn(mappings, nn.Sequential(nn.Flatten(), copy.deepcopy(plain)))
    pairs = list(zip(x.split(16), y.split(16), strict=True))
    for flow in ("joint", "sequential", "eval"):
        found = tn.measure(net, pairs, flow=flow, forward=lambda model, batch: model(*batch))
        assert_close(found["bn"].var, truth, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError):
        update_bn(pairs, copy.deepcopy(net))


@passes
def test_m8_a_row_that_is_not_finite_is_refused_with_a_sentence(run):
    net = trained()
    before = everything(net)
    x = torch.randn(64, 4)
    x[20, 1] = torch.nan
    with pytest.raises((NotMeasurable, InvalidInput), match="not finite"):
        run(net, x.split(16))
    assert everything(net) == before
    update_bn(x.split(16), net)
    assert net[1].running_mean.isnan().all()


def test_m8_a_layer_without_statistics_is_named():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    batches = torch.randn(128, 4).split(16)
    update_bn(batches, net)  # 2 is skipped, and nothing is said
    for data in (None, batches):
        found = [one for one in tn.diagnose(net, data).findings if one.cause == "track_running_stats"]
        assert [(one.level, one.layers) for one in found] == [("defect", ("2",))]
    with pytest.raises(InvalidInput, match=r"0: track_running_stats=False"):
        tn.measure(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), batches)

"""The three flows against the oracle, and what is left of a pass in the model: nothing."""

import copy
import random
from collections import OrderedDict
from functools import partial

import nets
import numpy as np
import oracle
import pytest
import torch
from nets import assert_same_bits, bits, identities, num_hooks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import truenorm as tn
from truenorm.errors import InvalidInput, NotMeasurable, UnknownName

close = partial(torch.testing.assert_close, check_dtype=False)
FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}
FLOWS = ("joint", "sequential", "eval")
every_flow = pytest.mark.parametrize("flow", FLOWS)
ROUNDS = {"memory": 1}
"""So little that rounds are made instead of one giant batch."""


def images(num=9, size=16, last=5):
    return [x for x, _ in nets.batches(num, size, last=last)]


def trained():
    net = nets.plain()
    nets.train(net, nets.batches(20))
    return net


def check(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name, (mean, var, count) in expected.items():
        close(found[name].mean, torch.as_tensor(mean), **(tolerance or FLOAT32))
        close(found[name].var, torch.as_tensor(var), **(tolerance or FLOAT32))
        assert found[name].count == count


def truth_of(net, flow, data):
    return getattr(oracle.TwoLayers({k: v.numpy() for k, v in net.state_dict().items()}), flow)(
        [x.numpy() for x in data]
    )


@every_flow
@pytest.mark.parametrize("training", [True, False])
def test_against_the_oracle(flow, training):
    net, data = trained().train(training), images()
    found = tn.measure(net, data, flow=flow)
    check(found, truth_of(net, flow, data))
    assert found.provenance.flow == flow
    assert found.provenance.samples == sum(map(len, data))


@every_flow
def test_in_double_precision(flow):
    net, data = trained().double(), [x.double() for x in images()]
    check(tn.measure(net, data, flow=flow), truth_of(net, flow, data), rtol=1e-9, atol=1e-11)


def test_the_flows_differ():
    """Else the tests above would not tell one from the other."""
    net, data = trained(), images(size=4)
    a, b, c = (truth_of(net, flow, data)["bn2"][1] for flow in FLOWS)
    assert not np.allclose(a, b, rtol=1e-2) and not np.allclose(b, c, rtol=1e-2)
    for flow, others in (("joint", ("eval", "sequential")), ("eval", ("joint", "sequential"))):
        for other in others:
            with pytest.raises(AssertionError, match="not close"):
                check(tn.measure(net, data, flow=flow), truth_of(net, other, data))


def test_a_planted_bug_is_found(monkeypatch):
    """Means of batch variances instead of pooled ones."""
    right = tn.rules.Population.update

    def within_only(self, state, batches, step, layout):
        new = right(self, state, batches, step, layout)
        return tn.rules.State({**new.channels, "between": new.channels["between"] * 0})

    monkeypatch.setattr(tn.rules.Population, "update", within_only)
    with pytest.raises(AssertionError, match="not close"):
        test_against_the_oracle("joint", True)


def test_float32_with_a_large_mean():
    net = nn.Sequential(nn.BatchNorm1d(4))
    data = [torch.randn(16, 4) + 1e4 for _ in range(40)]
    expected = oracle.population(oracle.stream_of([x.numpy() for x in data]))
    for flow in FLOWS:
        check(tn.measure(net, data, flow=flow), {"0": expected}, rtol=1e-3, atol=0)


# Sequential


def test_one_giant_batch_equals_rounds():
    net, data = trained(), images()
    giant, rounds = tn.measure(net, data, flow="sequential"), tn.measure(net, data, flow="sequential", **ROUNDS)
    assert giant.provenance.rounds is None and rounds.provenance.rounds >= 2
    check(rounds, {name: (m.mean, m.var, m.count) for name, m in giant.items()}, rtol=1e-3, atol=1e-3)
    assert rounds.provenance.flow == "sequential"


@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
@pytest.mark.parametrize("make", [nets.plain, nets.cnn], ids=["mlp", "cnn"])
def test_the_fixed_point(how, make):
    """With the sequential statistics assigned, what arrives at each layer is what it divides by."""
    net = make()
    data = [torch.randn(8, *((4,) if make is nets.plain else (2, 6, 6))) + 0.2 * t for t in range(6)]
    found = tn.measure(net, data, flow="sequential", **how)
    tn.assign(net, found)
    arriving = tn.measure(net, data, flow="eval")
    assert tn.estimation_shift(found, arriving).worst.shift < 2e-4
    for name, moments in arriving.items():
        close(moments.mean, found[name].mean, rtol=1e-3, atol=1e-3)
        close(moments.var, found[name].var, rtol=1e-3, atol=1e-3)


def test_the_first_layer_is_the_same_in_joint_and_sequential():
    net, data = trained(), images(size=4)
    joint, sequential = tn.measure(net, data), tn.measure(net, data, flow="sequential")
    close(joint["bn1"].mean, sequential["bn1"].mean, rtol=1e-5, atol=1e-6)
    close(joint["bn1"].var, sequential["bn1"].var, rtol=1e-5, atol=1e-6)
    assert tn.estimation_shift(joint, sequential)["bn2"].shift > 1e-3


@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_a_layer_called_twice_has_no_sequential_statistics(how):
    net, data = nets.Twice(), images()
    before = bits(net)
    with pytest.raises(NotMeasurable, match="layer 'bn' is called more than once per forward"):
        tn.measure(net, data, flow="sequential", **how)
    assert_same_bits(net.state_dict(), before)
    total = sum(map(len, data))
    assert tn.measure(net, data)["bn"].count == 2 * total
    assert tn.measure(net, data, flow="eval")["bn"].count == 2 * total


@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_an_iterator_is_enough_for_sequential(how):
    net, data = trained(), images()
    expected = tn.measure(net, data, flow="sequential", **how)
    found = tn.measure(net, (x for x in data), flow="sequential", **how)
    assert found == expected


def test_rounds_end():
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())])
    found = tn.measure(net, images(size=4), flow="sequential", **ROUNDS)
    assert found.provenance.rounds <= 7
    assert found.provenance.residual < 1e-3


# Layers


def test_order_is_that_of_the_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.a(self.b(x))

    for flow in FLOWS:
        assert list(tn.measure(Backwards(), images(), flow=flow)) == ["b", "a"]


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_frozen_layers_are_left_alone_and_named(flow, how):
    net, data = trained().train(), images()
    net.bn1.eval()
    before = bits(net)
    found = tn.measure(net, data, flow=flow, **how)
    assert_same_bits(net.state_dict(), before)
    assert not net.bn1.training and net.bn2.training
    assert found.provenance.frozen == ("bn1",)
    if flow == "eval":  # nothing is normalised by a batch: all layers are looked at
        check(found, truth_of(net, "eval", data))
        return
    assert list(found) == ["bn2"]
    # Behind the frozen layer everything is as in evaluation: here all flows agree.
    mean, var, count = truth_of(net, "eval", data)["bn2"]
    check(found, {"bn2": (mean, var, count)}, rtol=1e-4, atol=1e-4)


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_layers_that_no_batch_reaches_are_named(flow, how):
    net, data = trained(), images()
    net.add_module("unused", nn.BatchNorm1d(2))
    head = net[:6]
    found = tn.measure(net, data, flow=flow, forward=lambda model, batch: head(batch), **how)
    assert list(found) == ["bn1", "bn2"]
    assert found.provenance.skipped == ("unused",)


def test_no_layer_is_reached():
    with pytest.raises(NotMeasurable, match=r"no batch-norm layer was reached by any batch; does forward\(\) call"):
        tn.measure(trained(), images(), forward=lambda model, batch: batch)


@pytest.mark.parametrize(
    "kind", [nets.OwnBatchNorm, nets.HardCoded, nets.BiasedByHand, nets.Rebinding1d, nets.KeepMomentum]
)
def test_layers_of_other_makes(kind):
    net, data = nets.Custom(kind), images()
    before, things, seen = bits(net), identities(net), []
    handle = net.own.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().numpy().copy()))
    found = tn.measure(net, data)
    handle.remove()
    check({"own": found["own"]}, {"own": oracle.population(oracle.stream_of(seen))})
    assert_same_bits(net.state_dict(), before)
    assert identities(net) == things


def test_layers_that_never_normalise_are_left_out_of_joint():
    net = nets.Custom(nets.Frozen)
    joint = tn.measure(net, images())
    assert list(joint) == ["bn"] and joint.provenance.frozen == ("own",)
    for how in ({}, ROUNDS):
        assert "bn" in tn.measure(net, images(), flow="sequential", **how)
    assert set(tn.measure(net, images(), flow="eval")) == {"own", "bn"}


def test_timm_and_torchvision(timm, torchvision):
    from timm.layers import BatchNormAct2d

    net = nn.Sequential(nn.Conv2d(2, 4, 3), BatchNormAct2d(4), torchvision.ops.FrozenBatchNorm2d(4), nn.BatchNorm2d(4))
    data = [torch.randn(8, 2, 6, 6) for _ in range(5)]
    with torch.no_grad():
        expected = oracle.population(oracle.stream_of([net[0](x).numpy() for x in data]))
    found = tn.measure(net, data)
    check({"1": found["1"]}, {"1": expected})
    assert found.provenance.frozen == ("2",)


def test_dropout_is_off_and_the_result_says_so():
    net, data = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4)).train(), images()
    expected = oracle.population(oracle.stream_of([x.numpy() for x in data]))
    for flow in FLOWS:
        found = tn.measure(net, data, flow=flow)
        check(found, {"1": expected})
        assert found.about["dropout"] == "off, as in evaluation"


def test_momentum_none_zero_and_counts_do_not_matter():
    data = images()
    expected = tn.measure(nets.with_momentum(trained(), 0.1), data)
    for momentum in (None, 0.0, 0.9):
        torch.manual_seed(0)
        assert tn.measure(nets.with_momentum(trained(), momentum), data).keys() == expected.keys()
    for momentum in (None, 0.0, 0.9):
        net = nets.plain()
        check(tn.measure(nets.with_momentum(net, momentum), data), truth_of(net, "joint", data))


# Data


class Labelled(nn.Module):
    """A network as transformers have them: keyword arguments, a dict comes out."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, pixel_values=None, labels=None):
        return {"logits": self.net(pixel_values)}


@every_flow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, torch.zeros(len(x))],
        lambda x: {"image": x, "label": torch.zeros(len(x))},
        lambda x: OrderedDict(labels=torch.zeros(len(x)), pixel_values=x),
    ],
    ids=["tuple", "list", "dict", "transformers"],
)
def test_batches_as_people_have_them(wrap, flow):
    net, data = trained(), images()
    expected = tn.measure(net, data, flow=flow)
    assert tn.measure(net, [wrap(x) for x in data], flow=flow) == expected


@every_flow
def test_forward_says_how_a_batch_is_run(flow):
    net, data = trained(), images()
    wrapped = Labelled(net)
    found = tn.measure(
        wrapped,
        [{"pixel_values": x, "labels": torch.zeros(len(x))} for x in data],
        flow=flow,
        forward=lambda model, batch: model(**batch),
    )
    expected = truth_of(net, flow, data)
    check(found, {f"net.{name}": value for name, value in expected.items()}, rtol=1e-3, atol=1e-3)


@every_flow
def test_a_loader(flow):
    net, x = trained(), torch.randn(50, 4)
    loader = DataLoader(TensorDataset(x, torch.zeros(50)), batch_size=16)
    check(tn.measure(net, loader, flow=flow), truth_of(net, flow, list(x.split(16))))


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_limit(flow, how):
    net, data = trained(), images()
    found = tn.measure(net, data, flow=flow, limit=33, **how)
    assert found.provenance.samples == 48
    check(found, truth_of(net, flow, data[:3]), rtol=1e-3, atol=1e-3)
    with pytest.raises(InvalidInput, match="limit is 0"):
        tn.measure(net, data, flow=flow, limit=0)


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(flow, how, bad):
    net, data = trained(), images()
    data[3] = data[3].clone()
    data[3][0, 0] = bad
    before = bits(net)
    with pytest.raises(NotMeasurable, match="the values that reach layer 'bn1' are not finite; look for NaN or inf"):
        tn.measure(net, data, flow=flow, **how)
    assert_same_bits(net.state_dict(), before)


@every_flow
@pytest.mark.parametrize("data", [[], iter([]), (x for x in ())], ids=["list", "iterator", "generator"])
def test_no_batches(flow, data):
    with pytest.raises(InvalidInput, match="gave no batches"):
        tn.measure(trained(), data, flow=flow)


@every_flow
def test_what_is_no_batches_is_refused(flow):
    for data, said in (
        (torch.randn(8, 4), "not batches"),
        (3, "expected an iterable"),
        ([["a"]], "no tensor of images"),
    ):
        with pytest.raises(InvalidInput, match=said):
            tn.measure(trained(), data, flow=flow)


def test_an_unknown_flow():
    with pytest.raises(UnknownName, match="unknown flow 'sequental'; did you mean 'sequential'"):
        tn.measure(trained(), images(), flow="sequental")


def test_a_network_without_batch_norm():
    for flow in FLOWS:
        with pytest.raises(InvalidInput, match="Linear has no batch-norm layer"):
            tn.measure(nn.Linear(4, 4), images(), flow=flow)


def test_a_batch_of_one():
    net = trained()
    data = [*images(3), torch.randn(1, 4)]
    with pytest.raises(InvalidInput, match=r"layer 'bn1' got a batch of one value per channel, shape \(1, 6\)"):
        tn.measure(net, data)
    check(tn.measure(net, data, flow="eval"), truth_of(net, "eval", data))
    check(tn.measure(net, data, flow="sequential"), truth_of(net, "sequential", data))


def test_single_samples_in_eval():
    """Every batch is one sample: the variance is all between them."""
    net, data = trained(), [torch.randn(1, 4) for _ in range(40)]
    check(tn.measure(net, data, flow="eval"), truth_of(net, "eval", data))


# What is left in the model


class Augmented(TensorDataset):
    """It draws from every source of chance that there is."""

    def __getitem__(self, index):
        x = super().__getitem__(index)[0]
        return x + random.random() + float(np.random.rand()) + torch.rand(4)


@every_flow
def test_chance_in_the_data_leaves_the_random_state_as_it_was(flow):
    net, loader = trained(), DataLoader(Augmented(torch.randn(40, 4)), batch_size=8, shuffle=True)
    before = the_world()
    tn.measure(net, loader, flow=flow)
    assert the_world() == before
    with pytest.raises(RuntimeError, match="stop"):
        tn.measure(net, Stopping(loader, RuntimeError("stop"), 2), flow=flow)
    assert the_world() == before


class Stopping:
    """Batches that raise before the n-th, anew in every run over them."""

    def __init__(self, data, error, at):
        self.data, self.error, self.left = data, error, at

    def __iter__(self):
        for batch in self.data:
            self.left -= 1
            if self.left < 0:
                raise self.error
            yield batch


def the_world():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.is_grad_enabled()


def prepared():
    net = trained().train()
    net.add_module("drop", nn.Dropout(0.5))
    net.bn2.eval()
    net.relu.eval()
    net.bn1.momentum = None
    net.fc1.weight.grad = torch.ones_like(net.fc1.weight)
    net.register_forward_hook(lambda *_: None)
    return net


def untouched(net):
    return (identities(net), num_hooks(net), the_world(), id(net.fc1.weight.grad), net.fc1.weight.grad.tolist())


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
def test_nothing_is_left_of_a_pass(flow, how):
    net, data = prepared(), images(3)
    before, things = bits(net), untouched(net)
    found = tn.measure(net, data, flow=flow, **how)
    assert_same_bits(net.state_dict(), before)
    assert untouched(net) == things
    assert not any(moments.mean.requires_grad for moments in found.values())


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_pass_that_is_stopped_between_any_two_batches(flow, how, error):
    net, data, stopped = prepared(), images(3), 0
    before, things = bits(net), untouched(net)
    for at in range(40):
        try:
            tn.measure(net, Stopping(data, error("stop"), at), flow=flow, **how)
            break
        except error:
            stopped += 1
        assert_same_bits(net.state_dict(), before)
        assert untouched(net) == things
    assert stopped >= 3
    assert_same_bits(net.state_dict(), before)


@every_flow
@pytest.mark.parametrize("how", [{}, ROUNDS], ids=["giant", "rounds"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["in a layer", "between layers"])
def test_nothing_is_left_of_a_pass_that_is_stopped_inside_any_forward(flow, how, error, where):
    net, data, stopped = prepared(), images(3), 0
    calls = [0]

    class Stop(nn.BatchNorm1d if where == "in a layer" else nn.Identity):
        def forward(self, x):
            y = super().forward(x)
            calls[0] -= 1
            if calls[0] < 0:
                raise error("stop")
            return y

    net.append(Stop(3))
    before, things = bits(net), untouched(net)
    for at in range(60):
        calls[0] = at
        try:
            tn.measure(net, data, flow=flow, **how)
            break
        except error:
            stopped += 1
        assert_same_bits(net.state_dict(), before)
        assert untouched(net) == things
    # It is the last layer: once the first batch has told, the eval flow does not run it again.
    assert stopped >= (3 if flow == "joint" or (flow == "sequential" and how) else 1)


def test_gradients_flow_through_a_forward_made_before_the_pass():
    """Buffers come back as they were, so the graph of an earlier forward is still good."""
    net, data = trained(), images()
    twin = copy.deepcopy(net)
    for mode in (True, False):
        net.zero_grad(), twin.zero_grad()
        loss, expected = net.train(mode)(data[0]).square().sum(), twin.train(mode)(data[0]).square().sum()
        tn.measure(net, data[1:])
        loss.backward()
        expected.backward()
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)


@every_flow
@pytest.mark.parametrize("grad", [True, False])
def test_grad_mode_stays(flow, grad):
    net = trained()
    with torch.set_grad_enabled(grad):
        tn.measure(net, images(3), flow=flow)
        assert torch.is_grad_enabled() == grad


@every_flow
def test_inside_inference_mode(flow):
    net, data = trained(), images(3)
    expected = tn.measure(net, data, flow=flow)
    with torch.inference_mode():
        found = tn.measure(net, data, flow=flow)
    check(found, {name: (m.mean, m.var, m.count) for name, m in expected.items()})
    net.train()(data[0]).sum().backward()


def test_the_result_does_not_change_with_the_model():
    net, data = trained(), images()
    found = tn.measure(net, data)
    kept = {name: moments.mean.clone() for name, moments in found.items()}
    tn.measure(net, [x + 5 for x in data])
    for name, mean in kept.items():
        assert torch.equal(found[name].mean, mean)


@pytest.mark.filterwarnings("ignore")
@every_flow
@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("how", ["function", "method"])
def test_a_compiled_model(flow, called, how):
    torch.compiler.reset()
    net, data = trained(), images(3)
    expected = tn.measure(net, data, flow=flow)
    compiled = torch.compile(net, backend="eager") if how == "function" else net
    if how == "method":
        net.compile(backend="eager")
    if called:
        compiled.eval()(data[0])
        before = bits(net)
        compiled.train()(data[0])
        net.load_state_dict(before)
    assert tn.measure(compiled, data, flow=flow) == expected
    torch.compiler.reset()


def test_design_effect_is_measured():
    net = nn.Sequential(nn.BatchNorm1d(8))
    data = [torch.randn(16, 8).repeat_interleave(4, 0) for _ in range(200)]
    found = tn.measure(net, data)["0"]
    close(found.design_effect, oracle.design_effect(oracle.stream_of([x.numpy() for x in data])), rtol=1e-4, atol=0)
    assert 3 < found.design_effect < 5


def test_the_eval_flow_takes_named_inputs_and_refuses_what_has_no_channels():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.bn(input=x)

    x = torch.randn(10, 3)
    found = tn.measure(Named(), [x], flow="eval")
    torch.testing.assert_close(found["bn"].mean, x.double().mean(0), rtol=1e-5, atol=1e-6)


def test_one_giant_batch_has_no_noise_floor_for_it_does_not_tell_the_design_effect():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    batches = [torch.randn(10, 3) for _ in range(3)]
    giant, joint = tn.measure(net, batches, flow="sequential"), tn.measure(net, batches)
    assert tn.estimation_shift(joint, giant)["1"].noise_floor is None
    assert tn.estimation_shift(giant, joint)["1"].noise_floor > 0

"""`tracking="dynamic"`: the watch's adaptive rule as a layer, and what happens to its state in a program's life."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.testing import assert_close

import truenorm as tn
from truenorm.nn import dynamic
from truenorm.nn.dynamic import MOMENTA

TO_1E6 = {"rtol": 1e-6, "atol": 1e-6}
FOLLOWED = dynamic.OWN


def network(**named):
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), tn.nn.BatchNorm2d(5, **named), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 7, bias=False), tn.nn.BatchNorm1d(7, **named), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def made(seed=0, **named):
    torch.manual_seed(seed)
    return network(tracking="dynamic", **named)


def train(net, batches, lr=0.05):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def images(num, size=8, seed=1, drift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 2, 4, 4, generator=generator) + drift * t for t in range(num)]


def norms(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def state(net):
    """All that decides how it goes on; rows that are taken in are no more than scratch."""
    for layer in norms(net):
        if isinstance(layer, tn.nn.batchnorm.TrackedBatchNorm):
            layer.settle()
    return {name: value.clone() for name, value in net.named_buffers() if not name.endswith("rows")}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 80), st.integers(2, 9), st.sampled_from([0.0, 0.001, 0.1]), st.integers(0, 5))
def test_it_stores_what_the_watchs_rule_reads(num, size, drift, seed):
    net = made(seed)
    with tn.watch(net, (tn.rules.Adaptive(),)) as watched:
        train(net, images(num, size, seed, drift))
    own, rule = tn.statistics(net), watched["adaptive"]
    for name in rule:
        assert_close(own[name].mean, rule[name].mean.float(), **TO_1E6)
        assert_close(own[name].var, rule[name].var.float(), **TO_1E6)
    assert own.momenta == rule.momenta and set(own.momenta.values()) <= set(MOMENTA)
    assert all(own.betas[name] == 1 - momentum for name, momentum in own.momenta.items())
    assert [layer.chosen_momentum for layer in norms(net)] == list(rule.momenta.values())


def test_a_watch_leaves_the_layer_as_without():
    plain, watched = made(), made()
    train(plain, images(50))
    with tn.watch(watched):
        train(watched, images(50))
    assert_close(watched.state_dict(), plain.state_dict(), **TO_1E6)
    assert tn.statistics(watched).momenta == tn.statistics(plain).momenta


def test_weights_are_those_of_any_tracking_to_the_bit():
    nets = [made(), network(), network(tracking="torch")]
    initial = copy.deepcopy(nets[0].state_dict())
    for net in nets:
        net.load_state_dict(initial)
        train(net, images(30))
    for net in nets[1:]:
        for one, other in zip(net.parameters(), nets[0].parameters(), strict=True):
            assert torch.equal(one, other)


def test_without_reading_a_number_it_is_the_same(monkeypatch):
    by_numbers, by_tensors = made(), made()
    train(by_numbers, images(60))
    monkeypatch.setattr(dynamic, "is_free", lambda count: False)
    train(by_tensors, images(60))
    assert_close(state(by_tensors), state(by_numbers), **TO_1E6)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # inside torch
@pytest.mark.filterwarnings("error:.*lru_cache.*")
def test_compiled_as_one_graph_it_is_the_same(backend):
    torch._dynamo.reset()
    plain, compiled = made(), made()
    train(plain, images(12))
    train(torch.compile(compiled, fullgraph=True, backend=backend), images(12))
    assert_close(state(compiled), state(plain), rtol=1e-4, atol=1e-5)
    assert tn.statistics(compiled).momenta == tn.statistics(plain).momenta


def test_it_exports_for_training_and_for_inference():
    net = made()
    train(net, images(3))
    state(net)  # settled: a program takes each batch in at once, and knows of none that is pending
    twin, (x, *others) = copy.deepcopy(net), images(4, seed=5)
    program = torch.export.export(net, (x,)).module()
    for y in others:
        assert_close(program(y), twin(y))
    kept = dict(program.named_buffers())
    assert_close({name: kept[name] for name in state(twin)}, state(twin), **TO_1E6)
    inference = torch.export.export(twin.eval(), (x,))
    assert_close(inference.module()(x), twin(x))
    assert not {name for name in inference.state_dict if "candidates" in name or "scores" in name}


def test_state_dicts_are_torchs_keys_and_load_strictly_both_ways():
    ours = made()
    train(ours, images(5))
    theirs = tn.convert(copy.deepcopy(ours), to="torch")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_close(theirs.state_dict(), ours.state_dict(), rtol=0, atol=0)
    again = made(3)
    again.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(again.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel], ids=["plain", "wrapped"])
def test_a_saved_run_goes_on_to_the_same_bits(wrap):
    """The averages are in what torch saves, though not among the keys."""
    first, second = images(40, drift=0.02)[:20], images(40, drift=0.02)[20:]
    unbroken = made()
    train(unbroken, first, lr=0.0)
    file = io.BytesIO()
    torch.save(wrap(unbroken).state_dict(), file)
    train(unbroken, second, lr=0.0)
    file.seek(0)
    resumed = made(4)
    wrap(resumed).load_state_dict(torch.load(file, weights_only=True), strict=True)
    train(resumed, second, lr=0.0)
    assert_close(state(resumed), state(unbroken), rtol=0, atol=0)


def test_what_is_saved_is_not_what_is_loaded_into():
    net = made()
    train(net, images(5))
    saved = copy.deepcopy(net.state_dict())
    other = made(1)
    other.load_state_dict(saved)
    kept = state(other)
    train(other, images(5, seed=2))
    other.load_state_dict(saved)
    assert_close(state(other), kept, rtol=0, atol=0)


def test_an_assigned_checkpoint_is_followed_too():
    net = made()
    train(net, images(5))
    with torch.device("meta"):
        empty = network(tracking="dynamic")
    empty.load_state_dict(net.state_dict(), assign=True)
    assert_close(state(empty), state(net), rtol=0, atol=0)
    train(empty, images(2, seed=2))
    assert all(value.isfinite().all() for value in state(empty).values())


def test_memory_that_was_never_written_is_not_followed():
    with torch.device("meta"):
        net = network(tracking="dynamic")
    net.to_empty(device="cpu")
    fresh = made()
    for name, values in net.named_buffers():
        if name.endswith(FOLLOWED):
            values.fill_(float("nan") if values.is_floating_point() else 7)
    net.load_state_dict({**fresh.state_dict()})  # a plain dict: without the averages
    train(net, images(20))
    train(fresh, images(20))
    assert_close(state(net), state(fresh), rtol=0, atol=0)


WRITERS = {
    "loaded": lambda net, found: net.load_state_dict({**net.state_dict(), **found}),
    "assigned": lambda net, found: tn.assign(net, {"1": tn.Moments(found["1.running_mean"], found["1.running_var"])}),
    "copied": lambda net, found: [net.get_buffer(name).copy_(values) for name, values in found.items()],
    "through data": lambda net, found: [net.get_buffer(name).data.copy_(values) for name, values in found.items()],
    "exchanged": lambda net, found: [setattr(net[1], name[2:], values.clone()) for name, values in found.items()],
}


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("free", [True, False])
def test_statistics_that_somebody_wrote_are_gone_on_from(how, free, monkeypatch):
    monkeypatch.setattr(dynamic, "is_free", lambda count: free)
    net = made()
    train(net, images(30), lr=0.0)
    assert net[1].chosen_momentum < 0.1
    found = {"1.running_mean": torch.full((5,), 7.0), "1.running_var": torch.full((5,), 3.0)}
    with torch.no_grad():
        WRITERS[how](net, found)
    before = state(net)
    (x,) = images(1, seed=9)
    net(x)
    nearest = min(MOMENTA, key=lambda momentum: abs(torch.tensor(momentum / 0.1).log()))
    assert net[1].chosen_momentum == nearest  # not the fastest, which one batch cannot speak for
    way = (7.0 - net[1].running_mean) / (7.0 - net[0](x).mean((0, 2, 3)))
    assert (way > 0).all() and (way < nearest + 0.01).all()
    assert_close(state(net)["5.scores"] != before["5.scores"], torch.ones(7, dtype=torch.bool))
    if how != "loaded":  # which concerns the whole network
        assert net[5].chosen_momentum < 0.1


def test_torchs_statistics_are_not_wiped_by_the_first_batch():
    theirs = nn.BatchNorm1d(3)
    for _ in range(100):
        theirs(torch.randn(16, 3) + 5)
    ours = tn.convert(theirs, tracking="dynamic")
    ours(torch.randn(16, 3) - 5)
    assert_close(ours.running_mean, torch.full((3,), 5 - 10 / 6), rtol=0, atol=0.7)


def test_reset_starts_over():
    net = made()
    train(net, images(30))
    for layer in norms(net):
        layer.reset_running_stats()
    fresh = made()
    fresh.load_state_dict({**net.state_dict()})
    train(net, images(20, seed=2))
    train(fresh, images(20, seed=2))
    assert_close(state(net), state(fresh), rtol=0, atol=0)
    assert net[1].num_batches_tracked == 20


def test_before_the_first_batch_no_momentum_is_chosen():
    net = made()
    assert net[1].chosen_momentum is None and tn.statistics(net).momenta == {}


def test_a_pass_of_torchs_own_averages_and_the_choice_goes_on_after_it():
    net = made()
    train(net, images(20))
    averaged = AveragedModel(net)
    update_bn(images(10, seed=3), averaged)
    values = torch.cat([averaged.module[0](x) for x in images(10, seed=3)])
    assert_close(averaged.module[1].running_mean, values.mean((0, 2, 3)))
    assert_close(averaged.module[1].running_var, values.var((0, 2, 3), correction=0))
    train(averaged.module, images(20))
    assert set(tn.statistics(averaged.module).momenta.values()) <= set(MOMENTA)


def test_a_momentum_of_1_stores_the_batch_and_of_0_nothing():
    net = tn.nn.BatchNorm1d(3, tracking="dynamic")
    net(torch.randn(8, 3))
    net.momentum = 1.0
    x = torch.randn(8, 3) + 2
    net(x)
    assert_close(net.running_mean, x.mean(0))
    assert net.chosen_momentum == 1.0
    net.momentum = 0
    kept = copy.deepcopy(net.state_dict())
    net(torch.randn(8, 3))
    assert_close(net.state_dict(), kept, rtol=0, atol=0)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_counted_and_moves_nothing(bad, free, monkeypatch):
    monkeypatch.setattr(dynamic, "is_free", lambda count: free)
    net = tn.nn.BatchNorm1d(3, tracking="dynamic")
    for _ in range(5):
        net(torch.randn(8, 3))
    kept = state(net)
    x = torch.randn(8, 3)
    x[0, 1] = bad
    net(x)
    now = state(net)
    for count in ("num_batches_tracked", "settled", "kept"):
        assert now.pop(count) == kept.pop(count) + 1
    assert_close(now, kept, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_only_what_is_stored_is_coarse(dtype):
    """An average kept in half precision stands still where the momentum is small."""
    half, full = tn.nn.BatchNorm1d(4, tracking="dynamic").to(dtype), tn.nn.BatchNorm1d(4, tracking="dynamic")
    assert half.candidates.dtype == torch.float32 and half.running_mean.dtype == dtype
    torch.manual_seed(0)
    for _ in range(300):
        x = (torch.randn(32, 4) + 2).to(dtype)
        half(x)
        full(x.float())
    assert half.chosen_momentum == full.chosen_momentum < 0.01
    assert_close(half.running_var.float(), full.running_var, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    assert half.double().candidates.dtype == torch.float32 and half.running_mean.dtype == torch.float64


def test_during_a_pass_that_averages_half_precision_leaves_the_averages_exact():
    layer = tn.nn.BatchNorm1d(4, tracking="dynamic")
    layer.momentum = None
    assert layer.half().candidates.dtype == torch.float32


def test_moving_weights_get_a_fast_momentum_and_still_ones_a_slow_one():
    moving, still = tn.nn.BatchNorm1d(6, tracking="dynamic"), tn.nn.BatchNorm1d(6, tracking="dynamic")
    torch.manual_seed(0)
    for t in range(400):
        x = torch.randn(64, 6)
        still(x)
        moving(x + 0.3 * t)
    assert moving.chosen_momentum == max(MOMENTA) and still.chosen_momentum == min(MOMENTA)


def test_conversion_chooses_for_all_layers_and_leads_back():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), tn.nn.BatchNorm1d(3))
    plain = copy.deepcopy(net)
    names = set(vars(net[1]))
    assert [layer.tracking for layer in norms(tn.convert(net, tracking="dynamic"))] == ["dynamic"] * 2
    assert [layer.tracking for layer in norms(tn.convert(net))] == ["dynamic"] * 2
    assert [layer.tracking for layer in norms(tn.convert(net, tracking="torch"))] == ["torch"] * 2
    assert not [name for name, _ in net.named_buffers() if name.endswith(FOLLOWED)]
    tn.convert(net, tracking="dynamic")
    tn.convert(net, to="torch")
    assert type(net[1]) is nn.BatchNorm1d and set(vars(net[1])) == names
    assert_close(state(net), state(plain), rtol=0, atol=0)


def test_conversion_refuses_what_has_no_tracking():
    net = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(tn.errors.UnknownName, match="dynamic"):
        tn.convert(net, tracking="dinamic")
    with pytest.raises(tn.errors.InvalidInput, match="'sync' layers have no choice of it"):
        tn.convert(net, to="sync", tracking="dynamic")
    assert type(net[0]) is nn.BatchNorm1d


def test_with_an_activation_it_is_the_same():
    plain, act = tn.nn.BatchNorm1d(3, tracking="dynamic"), tn.nn.BatchNormAct1d(3, tracking="dynamic")
    for _ in range(10):
        x = torch.randn(8, 3)
        assert_close(act(x), plain(x).relu())
    assert_close(state(act), state(plain), rtol=0, atol=0)


def test_freezing_swapping_and_measuring_leave_it_as_it_was():
    net = made()
    train(net, images(20))
    kept, twin = state(net), copy.deepcopy(net)
    tn.freeze(net)
    train(net, images(3, seed=2), lr=0.0)
    tn.unfreeze(net)
    with tn.using(net, tn.measure(net, images(5, seed=3))):
        net.eval()(images(1)[0])
    net.train()
    tn.diagnose(net, images(8, size=32, seed=4))
    assert_close(state(net), kept, rtol=0, atol=0)
    train(net, images(10, seed=5))
    train(twin, images(10, seed=5))
    assert_close(state(net), state(twin), **TO_1E6)


def test_the_doctor_takes_a_chosen_momentum_for_no_setting():
    """0.9 is what fits weights that move; torch's layer with it would be told to lower it."""
    net = made()
    train(net, images(60, drift=1.0))
    assert 0.9 in tn.statistics(net).momenta.values()
    found = tn.diagnose(net, images(20, size=32, seed=4))
    assert not {"large momentum", "initial values", "sampling noise"} & {finding.cause for finding in found.causes}


def chosen_by(layer, batches):
    """The layer's momentum, and that of the watch's rule on the same batches."""
    plain = nn.BatchNorm1d(layer.num_features, eps=layer.eps)
    with tn.watch(plain, (tn.rules.Adaptive(),)) as watched:
        for x in batches:
            plain(x)
    return layer.chosen_momentum, watched["adaptive"].momenta[""]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("how", ["autocast", "medium"])
def test_the_users_precision_does_not_round_the_averages(how, free, monkeypatch):
    monkeypatch.setattr(dynamic, "is_free", lambda count: free)
    torch.manual_seed(0)
    layer, batches = tn.nn.BatchNorm1d(8, tracking="dynamic"), [torch.randn(64, 8) + 3 for _ in range(150)]
    before = torch.get_float32_matmul_precision()
    try:
        if how == "medium":
            torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            for x in batches:
                layer(x)
            ours, rule = chosen_by(layer, batches)
    finally:
        torch.set_float32_matmul_precision(before)
    assert ours == rule < 0.02


def test_a_constant_channel_far_from_zero_does_not_disturb_the_others():
    torch.manual_seed(0)
    batches = [torch.randn(64, 4) for _ in range(200)]
    for x in batches:
        x[:, 0] = 1000.1
    layer = tn.nn.BatchNorm1d(4, tracking="dynamic")
    for x in batches:
        layer(x)
    assert layer.chosen_momentum < 0.05 and (layer.scores != layer.scores.sort().values).any()


@pytest.mark.parametrize("by", [1e-4, 0.01, 5.0])
@pytest.mark.parametrize("nan", [False, True])
def test_what_was_assigned_in_the_middle_of_a_block_is_what_eval_uses(by, nan):
    layer = tn.nn.BatchNorm1d(4, tracking="dynamic")
    for _ in range(40):
        layer(torch.randn(64, 4) + 1000)
    if nan:
        layer(torch.full((8, 4), float("nan")))
    assert layer.running_mean.isfinite().all() and layer.running_var.isfinite().all()
    written = tn.Moments(layer.running_mean + by, layer.running_var * 2)
    tn.assign(layer, {"": written})
    layer.eval()
    assert torch.equal(layer.running_mean, written.mean) and torch.equal(layer.running_var, written.var)


def test_an_average_of_the_state_dict_is_kept():
    """As an exponential average of a model's weights: floats averaged, counts copied, never trained."""
    net = tn.nn.BatchNorm1d(4, tracking="dynamic")
    for _ in range(45):
        net(torch.randn(4096, 4))
    ema = copy.deepcopy(net).eval()
    expected = ema.running_mean.clone()
    for _ in range(100):
        net(torch.randn(4096, 4) + 0.05)
        for average, value in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            average.lerp_(value, 1e-3) if average.is_floating_point() else average.copy_(value)
        expected.lerp_(net.running_mean, 1e-3)
    assert_close(ema.running_mean, expected, rtol=0, atol=1e-6)


def test_eager_steps_among_compiled_ones_keep_the_choice(monkeypatch):
    layer = tn.nn.BatchNorm1d(4, tracking="dynamic")
    torch.manual_seed(0)
    for step in range(400):
        monkeypatch.setattr(dynamic, "is_free", lambda count, step=step: step % 50 != 49)
        layer(torch.randn(64, 4))
    assert layer.chosen_momentum < 0.02


def test_what_is_converted_has_seen_all_batches():
    net = made()
    train(net, images(20))
    pooled, torchs, told = copy.deepcopy(net), copy.deepcopy(net), tn.statistics(net)
    for other in (tn.convert(pooled, tracking="pooled"), tn.convert(torchs, to="torch")):
        assert tn.statistics(other) == told


def test_a_state_dict_without_the_layer_leaves_its_choice():
    net = made()
    train(net, images(300), lr=0.0)
    momenta = tn.statistics(net).momenta
    net.load_state_dict({"0.weight": net[0].weight.detach().clone()}, strict=False)
    assert tn.statistics(net).momenta == momenta and max(momenta.values()) < 0.1
    without = tn.nn.BatchNorm1d(3, tracking="dynamic", track_running_stats=False)
    without.load_state_dict(tn.nn.BatchNorm1d(3).state_dict(), strict=False)


def test_loading_and_resetting_exchange_no_buffer():
    """Data parallelism holds them, and would go on sending the old ones."""
    net = made()
    held = dict(net.named_buffers())
    train(net, images(3))
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    net[1].reset_running_stats()
    assert all(values is held[name] for name, values in net.named_buffers())


def test_a_forward_on_tensors_that_hold_nothing_leaves_later_ones_alone():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        tn.nn.BatchNorm1d(3, tracking="dynamic")(torch.randn(4, 3))
    layer = tn.nn.BatchNorm1d(3, tracking="dynamic")
    for _ in range(40):
        layer(torch.randn(4, 3))
    assert layer.running_mean.isfinite().all()

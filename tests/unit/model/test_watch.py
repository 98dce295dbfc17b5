"""The watch against torch itself: what a run of its own would have given."""

import contextlib
import copy
import io
import pickle
from functools import partial

import nets
import oracle
import pytest
import torch
from nets import assert_same_bits, assert_same_training, batches, bits, identities, num_hooks, train, with_momentum
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm import rules
from truenorm.errors import InvalidInput, NotMeasurable, UnknownName
from truenorm.model.stream import BLOCK

close = partial(torch.testing.assert_close, check_dtype=False)
FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}
MOMENTA = (0.001, 0.01, 0.1, 0.9)


def timm_cnn(momentum=0.1):
    from timm.layers import BatchNormAct2d

    return nets.cnn(momentum, BatchNormAct2d)


NETWORKS = {
    "mlp": (nets.plain, (4,)),
    "cnn": (nets.cnn, (2, 6, 6)),
    "volume": (nets.volume, (1, 4, 4, 4)),
    "own": (partial(nets.Custom, nets.OwnBatchNorm), (4,)),
    "hard-coded": (partial(nets.Custom, nets.HardCoded), (4,)),
    "without momentum": (partial(nets.Custom, nets.WithoutMomentum), (4,)),
    "keep momentum": (partial(nets.Custom, nets.KeepMomentum), (4,)),
    "biased by hand": (partial(nets.Custom, nets.BiasedByHand), (4,)),
    "rebinding": (partial(nets.Custom, nets.Rebinding1d), (4,)),
    "rebinding cnn": (lambda momentum=0.1: nets.cnn(momentum, nets.Rebinding), (2, 6, 6)),
    "renorm": (partial(nets.Custom, nets.Renorm), (4,)),
    "frozen": (partial(nets.Custom, nets.Frozen), (4,)),
    "in place": (partial(nets.Custom, nets.InPlace), (4,)),
    "twice": (nets.Twice, (4,)),
    "out of step": (nets.OutOfStep, (4,)),
    "split": (nets.Nested, (4,)),
    "own last": (nets.OwnLast, (4,)),
}


def made(name, momentum=0.1):
    torch.manual_seed(3)
    make, shape = NETWORKS[name]
    model = make(momentum=momentum)
    model.eval()(torch.zeros(2, *shape))  # lazy layers get their shapes
    if hasattr(model, "calls"):
        model.calls = 0
    return model, shape


def all_rules():
    return (
        rules.Static(), rules.Static((0.001001,)), rules.Cumulative(), rules.Pooled(), rules.Adaptive(), rules.Online(),
        rules.Population(), rules.Population("last-epoch", epochs=True), rules.Switched("switch"),
    )  # fmt: skip


def assert_as_torch(watched, name, unwatched, **tolerance):
    """The statistics under this rule are the buffers of a run of its own."""
    expected = tn.statistics(unwatched)
    found = watched[name]
    assert list(found) == [layer for layer in expected if layer in found]
    for layer, moments in found.items():
        close(moments.mean, expected[layer].mean, **(tolerance or FLOAT32))
        close(moments.var, expected[layer].var, **(tolerance or FLOAT32))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_run_does_not_notice(name):
    plain, shape = made(name)
    data = batches(2 * BLOCK + 7, shape=shape)
    model = copy.deepcopy(plain)
    things = identities(model)
    train(plain, data)
    with tn.watch(model, all_rules()) as watched:
        train(model, data)
        assert_same_training(model, plain)
    assert_same_training(model, plain)
    if "rebinding" not in name:
        assert identities(model)[0] == things[0]
    assert num_hooks(model) == 0
    watched["static-0.1"]
    assert_same_training(model, plain)


@pytest.mark.parametrize("momentum", [*MOMENTA, None])
@pytest.mark.parametrize("name", ["mlp", "cnn", "volume", "twice", "out of step"])
def test_every_momentum_is_what_a_run_of_its_own_gives(name, momentum):
    """Two runs of torch's, which differ in nothing but the momentum, and one watched."""
    model, shape = made(name)
    data = batches(BLOCK + 9, shape=shape)
    alone = with_momentum(model, momentum)
    train(alone, data)
    with tn.watch(model, (rules.Static(MOMENTA), rules.Cumulative())) as watched:
        train(model, data)
    assert_as_torch(watched, "cumulative" if momentum is None else f"static-{momentum:g}", alone)


def test_timm(timm):
    plain = timm_cnn()
    model, data = copy.deepcopy(plain), batches(BLOCK + 3, shape=(2, 6, 6))
    train(plain, data)
    with tn.watch(model, (rules.Static((0.1, 0.01)),)) as watched:
        # Known by name: lent, not measured a second time.
        assert all(buffers._swappable for buffers in watched._scratch)
        train(model, data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)


def test_frozen_batch_norm_of_torchvision(torchvision):
    """It divides by its buffers in training: lent ones would change what it gives."""
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), torchvision.ops.FrozenBatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)
    )
    model, data = copy.deepcopy(plain), batches(12, shape=(2, 6, 6))
    train(plain, data)
    with tn.watch(model, (rules.Static(),)) as watched:
        train(model, data)
        assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)
    assert list(watched["static-0.1"]) == ["2"]
    assert watched["static-0.1"].provenance.skipped == ("1",)


def test_frozen_layers_alone_are_watched_in_vain_but_train():
    """With one value per channel too: nothing is normalised by a batch."""
    plain = nn.Sequential(nn.Linear(4, 6), nets.Frozen(6), nn.Linear(6, 3))
    model, data = copy.deepcopy(plain), batches(9, last=1)
    train(plain, data)
    with tn.watch(model) as watched:
        train(model, data)
    assert_same_training(model, plain)
    with pytest.raises(NotMeasurable, match="has no statistics yet: no training batch"):
        watched["static-0.1"]


@pytest.mark.parametrize(
    "name",
    ["own", "hard-coded", "without momentum", "keep momentum", "biased by hand", "rebinding", "renorm", "in place"],
)
def test_layers_of_other_makes_are_measured(name):
    """Whatever a layer does with its own buffers, the stream holds what went into it."""
    model, shape = made(name)
    data, seen = batches(BLOCK + 5, shape=shape), []
    model.own.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    with tn.watch(model, (rules.Static((0.1, 0.02)), rules.Population())) as watched:
        train(model, data)
    stream = oracle.stream_of([x.numpy() for x in seen])
    for momentum in (0.1, 0.02):
        mean, var = oracle.static(stream, momentum)
        close(watched[f"static-{momentum:g}"]["own"].mean, torch.tensor(mean), **FLOAT32)
        close(watched[f"static-{momentum:g}"]["own"].var, torch.tensor(var), **FLOAT32)
    assert watched["population"]["own"].count == sum(len(x) for x in seen)


def test_layers_that_never_normalise_are_left_out():
    model, _ = made("frozen")
    with tn.watch(model) as watched:
        train(model, batches(3 * BLOCK))
    for rule in watched:
        assert list(watched[rule]) == ["bn"]
        assert watched[rule].provenance.skipped == ("own",)


def test_momentum_none_of_the_model():
    plain, _ = made("mlp", None)
    model, data = copy.deepcopy(plain), batches(BLOCK + 9)
    train(plain, data)
    with tn.watch(model) as watched:
        train(model, data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "cumulative", plain)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_layers_without_a_count_of_batches(momentum):
    """As old checkpoints and ports have them; torch's momentum=None then updates nothing."""
    plain, _ = made("mlp", momentum)
    plain.bn1.num_batches_tracked = plain.bn2.num_batches_tracked = None
    model, data = copy.deepcopy(plain), batches(9)
    train(plain, data)
    with tn.watch(model) as watched:
        train(model, data)
    assert_same_training(model, plain)
    assert "bn1" in watched["static-0.1"]


def test_momentum_zero_of_the_model():
    plain, _ = made("mlp", 0.0)
    model, data = copy.deepcopy(plain), batches(11)
    before = bits(model)
    train(plain, data)
    with tn.watch(model) as watched:
        train(model, data)
    assert_same_training(model, plain, rtol=0, atol=0)
    assert torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    assert watched["static-0.1"]["bn1"].mean.any()


def test_momentum_that_the_user_changes_on_the_way():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(20)

    def schedule(net, step):
        net.bn1.momentum = 1 / (step + 2)

    train(plain, data, between=partial(schedule, plain))
    with tn.watch(model):
        train(model, data, between=partial(schedule, model))
        assert model.bn1.momentum == plain.bn1.momentum
    assert_same_training(model, plain)


def test_double_precision():
    plain, _ = made("mlp")
    plain = plain.double()
    model, data = copy.deepcopy(plain), batches(BLOCK + 3, dtype=torch.float64)
    train(plain, data)
    with tn.watch(model, (rules.Static((0.1,)),)) as watched:
        train(model, data)
    assert_same_training(model, plain, rtol=1e-12, atol=1e-13)
    assert_as_torch(watched, "static-0.1", plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nets.OwnBatchNorm], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_half_buffers(dtype, kind, momentum):
    """The model's own come out as torch rounds them; the watch keeps more digits than they."""
    torch.manual_seed(3)
    plain = nn.Sequential(kind(4, momentum=momentum if kind is nn.BatchNorm1d else 0.1), nn.Linear(4, 3)).to(dtype)
    model, data = copy.deepcopy(plain), batches(20, dtype=dtype)
    train(plain, data)
    with tn.watch(model, (rules.Static((0.1,)), rules.Population())) as watched:
        train(model, data)
    coarse = 4 * torch.finfo(dtype).eps
    assert_same_training(model, plain, rtol=coarse, atol=coarse)
    mean, var, _ = oracle.population(oracle.stream_of([x.double().numpy() for x, _ in data]))
    close(watched["population"]["0"].mean, torch.tensor(mean), rtol=coarse, atol=coarse)
    close(watched["population"]["0"].var, torch.tensor(var), rtol=coarse, atol=coarse)


def test_half_inputs_and_float32_buffers():
    """Mixed precision: torch keeps the buffers in float32, and so does the watch."""
    plain = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    model, data = copy.deepcopy(plain), batches(10, shape=(2, 2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(plain, data)
        with tn.watch(model, (rules.Static((0.1,)),)) as watched:
            train(model, data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)


def test_channels_last():
    plain, shape = made("cnn")
    plain = plain.to(memory_format=torch.channels_last)
    model = copy.deepcopy(plain)
    data = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches(12, shape=shape)]
    train(plain, data)
    with tn.watch(model, (rules.Static((0.1,)),)) as watched:
        train(model, data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)


def test_the_population_is_that_of_what_went_into_each_layer():
    model, shape = made("cnn")
    seen = {"1": [], "4": []}
    for name, inputs in seen.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, x, kept=inputs: kept.append(x[0].detach().numpy())
        )
    with tn.watch(model, (rules.Population(),)) as watched:
        train(model, batches(BLOCK + 5, shape=shape))
    for name, inputs in seen.items():
        mean, var, count = oracle.population(oracle.stream_of(inputs))
        found = watched["population"][name]
        close(found.mean, torch.tensor(mean), **FLOAT32)
        close(found.var, torch.tensor(var), **FLOAT32)
        assert found.count == count


def test_reading_in_between_changes_no_bit():
    model, shape = made("out of step")
    data, other = batches(BLOCK + 9, shape=shape), copy.deepcopy(model)
    with tn.watch(model, all_rules()) as watched:
        train(model, data)
    with tn.watch(other, all_rules()) as looked_at:

        def look(step):
            for name in looked_at:
                if step % 7 == 0 and name != "last-epoch":
                    looked_at[name]

        train(other, data, between=look)
    for name in watched:
        if name != "last-epoch":
            assert looked_at[name] == watched[name], name
    assert_same_bits(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["mlp", "out of step", "own", "frozen"])
@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_saved_and_loaded_it_goes_on_to_the_same_bits(name, cut, tmp_path):
    whole, shape = made(name)
    data, broken = batches(BLOCK + 9, shape=shape), copy.deepcopy(whole)
    with tn.watch(whole, all_rules()) as uninterrupted:
        train(whole, data)
        uninterrupted.end_epoch()
    with tn.watch(broken, all_rules()) as first:
        optimizer = train(broken, data[:cut])
        first["static-0.1"]  # somebody looks
        torch.save({"model": broken.state_dict(), "watch": first.state_dict()}, tmp_path / "checkpoint")
        train(broken, data[cut:], optimizer=optimizer)  # what comes after must not reach what was saved
    saved = torch.load(tmp_path / "checkpoint", weights_only=True)

    again, _ = made(name)
    again.load_state_dict(saved["model"])
    again.calls = cut
    optimizer = momentum_of(again, data[:cut], name)
    watched = tn.watch(again, all_rules())
    watched.load_state_dict(saved["watch"])
    with watched:
        train(again, data[cut:], optimizer=optimizer)
        watched.end_epoch()
    assert_same_bits(again.state_dict(), whole.state_dict())
    for rule in uninterrupted:
        assert watched[rule] == uninterrupted[rule], rule
        assert watched[rule].momenta == uninterrupted[rule].momenta


def momentum_of(model, data, name):
    """The optimizer as it was at the cut: made by running the start again."""
    start, _ = made(name)
    optimizer = train(start, data)
    ours = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    ours.load_state_dict(optimizer.state_dict())
    return ours


def test_a_state_of_another_watch_is_refused():
    watched = tn.watch(nets.plain())
    for other, said in (
        (tn.watch(nets.plain(), (rules.Pooled(),)), "other rules than this one"),
        (tn.watch(nets.cnn()), "other names than this one"),
        (tn.watch(nets.plain(width=7)), "layers of other widths"),
    ):
        with pytest.raises(InvalidInput, match=said):
            watched.load_state_dict(other.state_dict())
    with pytest.raises(InvalidInput, match="not the state of a watch of this model"):
        watched.load_state_dict({})


def test_a_watch_can_be_entered_again():
    model, _ = made("mlp")
    data = batches(20)
    whole, optimizer = copy.deepcopy(model), None
    with tn.watch(whole, (rules.Static(),)) as once:
        train(whole, data)
    watched = tn.watch(model, (rules.Static(),))
    for part in (data[:7], data[7:]):
        with watched:
            optimizer = train(model, part, optimizer=optimizer)
    for name in once:
        assert watched[name] == once[name]


def test_batches_outside_the_block_are_not_seen():
    model, _ = made("mlp")
    with tn.watch(model) as watched:
        train(model, batches())
    before = watched["cumulative"]
    train(model, batches())
    assert watched["cumulative"] == before


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_backward_after_many_forwards(name, dtype):
    """Autograd keeps what a layer was lent: rows that are folded and lent again must not spoil its graph."""
    plain, shape = made(name)
    plain = plain.to(dtype)
    model, data = copy.deepcopy(plain), batches(BLOCK + 9, shape=shape, dtype=dtype)
    for net in (plain, model):
        net.train()
        with tn.watch(model) if net is model else tn.using(nets.plain()):
            sum(F.cross_entropy(net(images).float(), labels) for images, labels in data).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name


def test_backward_through_an_evaluation_before_a_training_forward():
    plain, _ = made("mlp")
    model, x = copy.deepcopy(plain), batches(1)[0][0]
    for net in (plain, model):
        with tn.watch(model) if net is model else tn.using(nets.plain()):
            evaluated = net.eval()(x).sum()
            (net.train()(x).sum() + evaluated).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        close(ours.grad, theirs.grad)


# What is no batch of training


def test_evaluation_is_no_batch():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(10)

    def validate(net, step):
        net.eval()
        net(data[0][0])
        with torch.no_grad():
            net(data[1][0])
        net.train()

    train(plain, data, between=partial(validate, plain))
    with tn.watch(model) as watched:
        train(model, data, between=partial(validate, model))
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)
    with tn.watch(made("mlp")[0]) as undisturbed:
        train(undisturbed._model, data)
    assert watched["adaptive"] == undisturbed["adaptive"]


def test_training_mode_without_gradient_counts_as_in_torch_but_not_for_adaptive():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(10)

    @torch.no_grad()
    def look(net, step):
        net(data[0][0] * 10 + 5)

    train(plain, data, between=partial(look, plain))
    with tn.watch(model) as watched:
        train(model, data, between=partial(look, model))
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)
    with tn.watch(made("mlp")[0]) as undisturbed:
        train(undisturbed._model, data)
    for layer in undisturbed["adaptive"]:
        close(watched["adaptive"][layer].mean, undisturbed["adaptive"][layer].mean)
        close(watched["adaptive"][layer].var, undisturbed["adaptive"][layer].var)
    assert watched["adaptive"].momenta == undisturbed["adaptive"].momenta


def test_frozen_layers_are_not_followed():
    model, _ = made("mlp")
    with tn.watch(model) as watched:
        for images, labels in batches():
            model.train()
            model.bn1.eval()
            F.cross_entropy(model(images), labels).backward()
    assert list(watched["static-0.1"]) == ["bn2"]
    assert model.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("every", [1, 4])
def test_update_bn_in_a_watched_block_is_no_batch(momentum, every):
    plain, _ = made("mlp", momentum)
    model, data = copy.deepcopy(plain), batches(12)

    def recalibrate(net, step):
        if step % every == every - 1:
            torch.optim.swa_utils.update_bn([x for x, _ in data[:5]], net)

    train(plain, data, between=partial(recalibrate, plain))
    with tn.watch(model) as watched:
        train(model, data, between=partial(recalibrate, model))
    assert_same_training(model, plain)
    with tn.watch(made("mlp", momentum)[0]) as undisturbed:
        train(undisturbed._model, data)
    for rule in watched:
        for layer in watched[rule]:
            close(watched[rule][layer].mean, undisturbed[rule][layer].mean, msg=rule)
            close(watched[rule][layer].var, undisturbed[rule][layer].var, msg=rule)


@pytest.mark.parametrize("flow", ["joint", "sequential", "eval"])
@pytest.mark.parametrize("name", ["mlp", "own", "frozen"])
def test_measure_in_a_watched_block_is_no_batch(flow, name):
    plain, _ = made(name)
    model, data = copy.deepcopy(plain), batches(12)
    train(plain, data)
    with tn.watch(model) as watched:
        train(model, data, between=lambda _: tn.measure(model, data[:3], flow=flow))
    assert_same_training(model, plain)
    with tn.watch(made(name)[0]) as undisturbed:
        train(undisturbed._model, data)
    for rule in watched:
        assert watched[rule] == undisturbed[rule], rule


def diagnosed(model, data):
    """Of samples that look like none of the training, so that a batch of them would show."""
    tn.diagnose(model, [(x - 30, torch.zeros(len(x), dtype=torch.long)) for x in data])


def repaired(model, data):
    done = tn.repair(model, [x - 30 for x in data], score=lambda y, x: -y.square().mean(1))
    tn.assign(model, done.previous)


def examined_without_data(model, data):
    tn.diagnose(model)


@pytest.mark.parametrize("look", [diagnosed, repaired, examined_without_data])
@pytest.mark.parametrize("name", ["mlp", "own", "dropout"])
def test_looking_in_a_watched_block_is_no_batch(look, name):
    plain, _ = made(name) if name != "dropout" else (nets.plain(), (4,))
    if name == "dropout":
        plain = nn.Sequential(plain, nn.Dropout(0.2))
    model, alone, data = copy.deepcopy(plain), copy.deepcopy(plain), batches(12)
    torch.manual_seed(3)
    with tn.watch(model) as watched:
        for step, batch in enumerate(data):
            train(model, [batch])
            if step == 6:
                look(model, [x for x, _ in data[:4]])
    torch.manual_seed(3)
    with tn.watch(alone) as undisturbed:
        for batch in data:
            train(alone, [batch])
    for rule in watched:
        assert watched[rule] == undisturbed[rule], rule


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("kind", ["torch", "truenorm", "biased by hand"])
def test_a_batch_without_rows_is_counted_and_changes_nothing(momentum, kind):
    """An expert that got no token, a detection head without a box."""

    def norm():
        if kind == "biased by hand":
            return nets.BiasedByHand(4, momentum=momentum or 0.1)
        return (nn.BatchNorm1d if kind == "torch" else tn.nn.BatchNorm1d)(4, momentum=momentum)

    def run(layer):
        torch.manual_seed(1)
        for step in range(6):
            layer(torch.randn(16, 4) + 2)
            if step == 3 and kind != "biased by hand":  # whose own arithmetic has no mean of nothing
                layer(torch.zeros(0, 4))

    plain, watched_layer, undisturbed_layer = norm(), norm(), norm()
    run(plain)
    with tn.watch(watched_layer, all_rules()) as watched:
        run(watched_layer)
    for key, value in plain.named_buffers():
        close(watched_layer.get_buffer(key), value, **FLOAT32)
    with tn.watch(undisturbed_layer, all_rules()) as undisturbed:
        torch.manual_seed(1)
        for _ in range(6):
            undisturbed_layer(torch.randn(16, 4) + 2)
    for rule in watched:
        if rule != "last-epoch":
            assert watched[rule] == undisturbed[rule], rule


@pytest.mark.parametrize("flow", ["joint", "eval"])
def test_a_layer_without_rows_is_passed_over(flow):
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.usual, self.rare = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.usual(x[x[:, 0] < 1]), self.rare(x[x[:, 0] >= 1])

    model = Routed()
    usual = (torch.arange(8.0) / 8)[:, None].expand(8, 2)
    mixed = (torch.arange(8.0) / 2)[:, None].expand(8, 2)
    found = tn.measure(model, [usual, mixed, usual, mixed], flow=flow)
    rare = torch.cat([mixed[2:], mixed[2:]])
    assert found["rare"].count == len(rare)
    close(found["rare"].mean, rare.mean(0).double(), **FLOAT32)
    close(found["rare"].var, rare.var(0, correction=0).double(), **FLOAT32)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, tn.nn.BatchNorm1d])
def test_hooks_of_the_user_see_the_layers_own_buffers(kind):
    def run(watch):
        layer, seen = kind(4), []

        def look(*given):
            seen.append((layer.running_mean.clone(), layer.running_var.clone(), layer.momentum))

        layer.register_forward_pre_hook(look)
        layer.register_forward_hook(look)
        torch.manual_seed(1)
        with tn.watch(layer) if watch else contextlib.nullcontext():
            layer.register_forward_hook(look)
            for _ in range(6):
                layer(torch.randn(16, 4) * 2 + 3)
        return seen

    for found, expected in zip(run(True), run(False), strict=True):
        close(found, expected, **FLOAT32)


def test_suspended():
    model, _ = made("mlp")
    with tn.watch(model) as watched:
        train(model, batches())
        before = watched["cumulative"]
        with watched.suspended(), watched.suspended():
            train(model, batches())
        assert watched["cumulative"] == before
        train(model, batches())
    assert watched["cumulative"] != before


# Checkpointing


class Checkpointed(nn.Module):
    """`nets.plain` with everything up to bn2 recomputed in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.net, self.reentrant = nets.plain(), reentrant

    def forward(self, x):
        if self.reentrant is None or not torch.is_grad_enabled():
            return self.net(x)
        from torch.utils.checkpoint import checkpoint

        # A reentrant one wants an input with gradient.
        h = checkpoint(self.net[:5], x.requires_grad_(self.reentrant), use_reentrant=self.reentrant)
        return self.net.fc3(h)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_forwards_are_no_batches(reentrant):
    torch.manual_seed(3)
    model = Checkpointed(reentrant)
    plain = copy.deepcopy(model)
    once = copy.deepcopy(model)
    once.reentrant = None
    data = batches(BLOCK + 5)
    train(plain, [(x.clone(), y) for x, y in data])
    with tn.watch(once) as expected:
        train(once, [(x.clone(), y) for x, y in data])
    with tn.watch(model) as watched:
        train(model, [(x.clone(), y) for x, y in data])
    # torch updates twice, watched or not.
    assert plain.net.bn1.num_batches_tracked == 2 * len(data)
    assert_same_training(model, plain)
    for rule in ("static-0.1", "static-0.001", "cumulative", "pooled-0.1", "adaptive"):
        for layer in ("net.bn1", "net.bn2"):
            close(watched[rule][layer].mean, expected[rule][layer].mean, **FLOAT32)
            close(watched[rule][layer].var, expected[rule][layer].var, **FLOAT32)
    assert watched["adaptive"].momenta == expected["adaptive"].momenta


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_and_looks_without_gradient(reentrant):
    """Forwards without gradient that nobody repeats do not spoil the count of those that are."""
    torch.manual_seed(3)
    model = Checkpointed(reentrant)
    once, data = copy.deepcopy(model), batches(12)
    once.reentrant = None
    found = []
    for net in (once, model):
        with tn.watch(net, (rules.Adaptive(),)) as watched:

            def look(_, net=net):
                with torch.no_grad():
                    net(data[0][0].detach())

            train(net, [(x.clone(), y) for x, y in data], between=look)
        found.append(watched["adaptive"])
    for layer in ("net.bn1", "net.bn2"):
        close(found[1][layer].mean, found[0][layer].mean, **FLOAT32)
        close(found[1][layer].var, found[0][layer].var, **FLOAT32)


# Whatever happens


class Failing(nn.Module):
    """An activation that raises at its n-th forward."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.left = error, after

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


class WithActivation(nn.BatchNorm1d):
    """As networks write it: super().forward, then something that may fail."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


def fail_in_timm(error, after):
    from timm.layers import BatchNormAct2d

    layer = BatchNormAct2d(4)
    layer.act = Failing(error, after)
    return nn.Sequential(nn.Unflatten(1, (4, 1, 1)), layer, nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))


def fail_in_subclass(error, after):
    return nn.Sequential(WithActivation(4, Failing(error, after)), nn.BatchNorm1d(4), nn.Linear(4, 3))


def failing(net, error, after, *, pre):
    """A user's hook that raises: before the layer's forward, or after it."""
    fail = Failing(error, after)
    if pre:
        net[0].register_forward_pre_hook(lambda layer, inputs: fail(inputs[0]))
    else:
        net[0].register_forward_hook(lambda layer, inputs, output: fail(output))
    return net


def fail_in_user_hook(error, after, *, pre):
    return failing(nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3)), error, after, pre=pre)


PLACES = {
    "activation of timm": fail_in_timm,
    "activation of a subclass": fail_in_subclass,
    "hook before": partial(fail_in_user_hook, pre=True),
    "hook after": partial(fail_in_user_hook, pre=False),
}


def assert_left_in_place(model, hooks, things):
    assert num_hooks(model) == hooks
    assert identities(model)[0] == things[0]
    assert {name: momentum for name, (_, momentum) in identities(model)[1].items()} == {
        name: momentum for name, (_, momentum) in things[1].items()
    }
    for buffer in model.buffers():
        assert bool(buffer.isfinite().all())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", PLACES)
def test_what_is_raised_inside_a_layer_leaves_everything_in_place(error, where, timm):
    model = PLACES[where](error("here"), 4)
    hooks, things = num_hooks(model), identities(model)
    with pytest.raises(error, match="here"), tn.watch(model):
        train(model, batches())
    assert_left_in_place(model, hooks, things)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("pre", [True, False])
def test_hooks_that_came_after_the_watch_may_raise(error, pre):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    things = identities(model)
    with tn.watch(model):
        failing(model, error("here"), 4, pre=pre)
        with pytest.raises(error, match="here"):
            train(model, batches())
    assert_left_in_place(model, 1, things)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_caught_interruption_counts_for_nothing(error, timm):
    """The block goes on after it, first in evaluation mode: nothing half-measured is taken for a batch."""
    model = fail_in_timm(error("here"), 4)
    data = batches(9)
    with tn.watch(model, (rules.Population(),)) as watched:
        train(model, data[:3])
        with pytest.raises(error):
            train(model, data[3:4])
        model.eval()(data[0][0])
        train(model, data[4:])
    found = watched["population"]
    mean, var, count = oracle.population(oracle.stream_of([x.numpy() for i, (x, _) in enumerate(data) if i != 3]))
    assert found["1"].count == found["3"].count == count
    close(found["1"].mean, torch.tensor(mean), **FLOAT32)
    close(found["1"].var, torch.tensor(var), **FLOAT32)


def test_a_batch_of_one_value_per_channel_names_the_layer():
    model, _ = made("mlp")
    with tn.watch(model) as watched:
        train(model, batches(3)[:1])
        before = bits(model)
        with pytest.raises(InvalidInput, match=r"layer 'bn1' got a batch of one value per channel, shape \(1, 6\)"):
            model(torch.randn(1, 4))
    assert_same_bits(model.state_dict(), before)
    assert watched["static-0.1"]["bn1"].mean.shape == (6,)
    model.eval()(torch.randn(1, 4))


def test_nan_batches_go_through_as_in_torch():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(5)
    data[2] = (data[2][0] * torch.nan, data[2][1])
    for net in (plain, model):
        net.train()
    with tn.watch(model) as watched, torch.no_grad():
        for images, _ in data:
            plain(images)
            model(images)
    for key, value in plain.state_dict().items():
        close(model.state_dict()[key], value, equal_nan=True, **FLOAT32)
    assert bool(watched["static-0.1"]["bn1"].mean.isnan().all())


def test_a_nan_batch_does_not_stay_in_the_rows():
    """A row is lent again: torch adds 0 times what is in it."""
    model = nn.Sequential(nn.BatchNorm1d(4))
    with tn.watch(model, (rules.Adaptive(),)) as watched:
        model.train()(torch.full((8, 4), torch.nan))
        for _ in range(2 * BLOCK + 3):
            model(torch.randn(8, 4))
    assert bool(watched["adaptive"]["0"].mean.isfinite().all())


# What is refused


def test_watching_twice_is_refused_and_harms_nothing():
    model, _ = made("mlp")
    with tn.watch(model) as watched:
        hooks = num_hooks(model)
        with pytest.raises(InvalidInput, match="watched already; give all rules to one watch"), tn.watch(model):
            pass
        with pytest.raises(InvalidInput, match="watched already"), tn.watch(nn.Sequential(model)):
            pass
        with pytest.raises(InvalidInput, match="watched already"):
            watched.__enter__()
        assert num_hooks(model) == hooks
        train(model, batches())
    assert "bn1" in watched["static-0.1"]
    with tn.watch(model):
        pass


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(InvalidInput, match="no batch-norm layer"):
        tn.watch(nn.Linear(1, 1))
    with pytest.raises(InvalidInput, match="nothing to watch for: no rule"):
        tn.watch(nets.plain(), ())
    with pytest.raises(InvalidInput, match="two rules give 'static-0.1'; leave one of them out"):
        tn.watch(nets.plain(), (rules.Static(), rules.Static((0.1,))))


def test_before_the_first_batch_there_is_nothing_to_read():
    watched = tn.watch(nets.plain())
    with pytest.raises(NotMeasurable, match="'static-0.1' has no statistics yet: no training batch was seen"):
        watched["static-0.1"]
    with pytest.raises(UnknownName, match="unknown rule 'static-0.2'; did you mean 'static-0.22'"):
        watched["static-0.2"]
    assert "static-0.1" in watched and "static-0.2" not in watched
    assert len(watched) == len(list(watched)) == 19


def test_the_last_epoch_needs_an_end():
    model, _ = made("mlp")
    seen = []
    model.bn1.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().numpy()))
    with tn.watch(model, (rules.Population("last-epoch", epochs=True),)) as watched:
        optimizer = train(model, batches())
        with pytest.raises(NotMeasurable, match=r"no epoch has ended \(call end_epoch\)"):
            watched["last-epoch"]
        watched.end_epoch()
        first = oracle.population(oracle.stream_of(seen))
        seen.clear()
        train(model, batches(seed=2)[:4], optimizer=optimizer)
        for mean, var, count in (first, first):
            found = watched["last-epoch"]["bn1"]
            close(found.mean, torch.tensor(mean), **FLOAT32)
            close(found.var, torch.tensor(var), **FLOAT32)
            assert found.count == count
        watched.end_epoch()
        assert watched["last-epoch"]["bn1"].count == 32


def test_population_without_a_batch_says_what_is_missing():
    watched = tn.watch(nets.plain(), (rules.Population(),))
    with pytest.raises(NotMeasurable, match="no training batch was seen"):
        watched["population"]


def test_switching_momenta_on_the_way():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(BLOCK + 8)

    def switch_plain(step):
        if step == 9:
            plain.bn1.momentum, plain.bn2.momentum = 0.01, 0.5

    train(plain, data, between=switch_plain)
    with tn.watch(model, (rules.Switched("switch"), rules.Static((0.1,)))) as watched:
        train(
            model, data, between=lambda step: watched.switch("switch", {"bn1": 0.01, "bn2": 0.5}) if step == 9 else None
        )
        assert_as_torch(watched, "switch", plain)
        assert watched["switch"].momenta == {"bn1": 0.01, "bn2": 0.5}
        watched.switch("switch", {"bn2": 0.25})
        assert watched["switch"].momenta == {"bn1": 0.01, "bn2": 0.25}
        with pytest.raises(UnknownName, match="unknown layer 'bn3'"):
            watched.switch("switch", {"bn3": 0.1})
        with pytest.raises(InvalidInput, match="'static-0.1' has fixed momenta; only rules.Switched"):
            watched.switch("static-0.1", {"bn1": 0.1})
        with pytest.raises(InvalidInput, match="momentum 1.5 is outside"):
            watched.switch("switch", {"bn1": 1.5})


def test_the_best_momentum_of_each_layer():
    model, _ = made("mlp")
    with tn.watch(model, (rules.Static(), rules.Pooled((0.1, 0.5)), rules.Switched("static-like"))) as watched:
        train(model, batches(30))
    for momentum, prefix in ((0.01, "static"), (0.5, "pooled")):
        name = f"{prefix}-{momentum:g}"
        reference = watched[name]
        chosen = watched.best(reference, among=prefix)
        assert chosen == reference
        assert chosen.momenta == {"bn1": momentum, "bn2": momentum}
    mixed = tn.stats.Statistics({"bn1": watched["static-0.9"]["bn1"], "bn2": watched["static-0.001"]["bn2"]})
    assert watched.best(mixed).momenta == {"bn1": 0.9, "bn2": 0.001}
    with pytest.raises(InvalidInput, match=r"no pooled momenta are watched; add rules\.Pooled\(\)"):
        tn.watch(nets.plain(), (rules.Static(),)).best(mixed, among="pooled")


# Copies, wrappers, compilers


def copied(model, how):
    if how == "deepcopy":
        return copy.deepcopy(model)
    file = io.BytesIO()
    if how == "pickle":
        return pickle.loads(pickle.dumps(model))
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_watched_model_are_not_watched(how):
    model, _ = made("mlp")
    data = batches(20)
    with tn.watch(model) as watched:
        train(model, data[:5])
        twin = copied(model, how)
        before = watched["cumulative"]
        assert_same_bits(twin.state_dict(), model.state_dict())
        plain = copied(twin, how)
        train(twin, data[5:])
        assert watched["cumulative"] == before
        train(model, data[5:])
    assert_same_training(twin, model)
    train(plain, data[5:])
    assert_same_bits(twin.state_dict(), plain.state_dict())
    with tn.watch(twin) as again:  # and can be watched
        train(twin, data)
    assert "bn1" in again["static-0.1"]


def test_an_average_of_weights_inside_the_block():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(15)
    averages = []
    for net in (plain, model):
        with tn.watch(model) if net is model else tn.using(nets.plain()) as watched:
            average = torch.optim.swa_utils.AveragedModel(
                net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
            )
            train(net, data, between=lambda _, a=average, n=net: a.update_parameters(n))
            average.train()(data[0][0])
            averages.append(average)
    assert_same_training(model, plain)
    assert_same_training(averages[1], averages[0])
    assert_as_torch(watched, "static-0.1", plain)


def test_data_parallel_on_this_machine():
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(9)
    train(plain, data)
    with tn.watch(nn.DataParallel(model)) as watched:
        train(nn.DataParallel(model), data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)


compiled_quietly = pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own insides


@pytest.fixture
def dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@compiled_quietly
@pytest.mark.parametrize("how", ["function", "method", "watch the compiled"])
@pytest.mark.slow
def test_compiled_after_the_watch_was_entered(how, dynamo):
    plain, _ = made("mlp")
    model, data = copy.deepcopy(plain), batches(12)
    train(plain, data)
    compiled = torch.compile(model, backend="eager") if how != "method" else model
    with tn.watch(compiled if how == "watch the compiled" else model) as watched:
        if how == "method":
            model.compile(backend="eager")
        train(compiled, data)
    assert_same_training(model, plain)
    assert_as_torch(watched, "static-0.1", plain)
    assert list(watched["adaptive"]) == ["bn1", "bn2"]


@compiled_quietly
def test_compiled_and_called_before_is_refused(dynamo):
    model, _ = made("mlp")
    compiled = torch.compile(model, backend="eager")
    train(compiled, batches(3))
    before = bits(model)
    said = "reached none of its 2 watched layers; if the model was compiled"
    with pytest.raises(NotMeasurable, match=said), tn.watch(compiled):
        train(compiled, batches(3))
    assert num_hooks(compiled) == 0
    assert not torch.equal(bits(model)["bn1.running_mean"], before["bn1.running_mean"])


def test_a_planted_bug_is_found(monkeypatch):
    """A watch that leaves the model's own buffers to themselves must not pass."""
    from truenorm.model.watch import Watch

    right = Watch.receive
    monkeypatch.setattr(Watch, "receive", lambda self, index, count, momentum: right(self, index, count, 0.0))
    with pytest.raises(AssertionError, match="running_mean"):
        test_the_run_does_not_notice("mlp")


def test_a_planted_biased_variance_is_found(monkeypatch):
    right = rules.Static.update

    def biased(self, state, found, step, layout):
        return right(self, state, rules.Batches(found.mean_TC, found.var_TC, found.count_TC * 1e9), step, layout)

    monkeypatch.setattr(rules.Static, "update", biased)
    with pytest.raises(AssertionError, match="not close"):
        test_every_momentum_is_what_a_run_of_its_own_gives("mlp", 0.1)


def test_what_is_measured_the_slow_way_is_said():
    class Own(nn.BatchNorm1d):
        def forward(self, input):
            return super().forward(input).relu()

    net = nn.Sequential(nn.BatchNorm1d(3), Own(3))
    with tn.watch(net) as watched:
        net(torch.randn(8, 3))
    assert watched["static-0.1"].provenance.measured_beside == ("1",)
    with tn.watch(net[0]) as watched:
        net[0](torch.randn(8, 3))
    assert list(watched["static-0.1"].about) == ["rule"]


def test_every_default_rule_under_autocast():
    """Folding happens inside the forward of the batch that finds the block full: beyond BLOCK batches."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    batches = torch.randn(BLOCK + 3, 8, 4)
    with tn.watch(net) as watched, torch.autocast("cpu", dtype=torch.bfloat16):
        for batch in batches:
            net(batch).sum().backward()
    assert all(moments.var.dtype in (torch.float32, torch.float64) for moments in watched["adaptive"].values())
    torch.testing.assert_close(watched["static-0.1"]["1"].mean.float(), net[1].running_mean, rtol=1e-5, atol=1e-6)


def test_another_default_dtype_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        net = nn.BatchNorm1d(3)
        with tn.watch(net) as watched:
            net(torch.randn(8, 3))
        assert watched["adaptive"][""].num_channels == 3
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("width", [144, 192, 379, 576, 617, 768, 1152])
def test_adaptive_follows_layers_of_any_width(width):
    net = nn.BatchNorm1d(width)
    with tn.watch(net, [rules.Adaptive()]) as watched:
        for _ in range(5):
            net(10 + torch.randn(16, width))
    assert (watched["adaptive"][""].mean > 9).all()


def test_data_parallel_over_several_devices_is_refused():
    net = nn.DataParallel(nn.BatchNorm1d(2))
    net.device_ids = [0, 1]
    with pytest.raises(InvalidInput, match="use DistributedDataParallel"):
        tn.watch(net)

"""Frozen layers stay as they are whatever is done to the model; thawed ones are as if they had never been frozen."""

import copy
import io
import pickle

import nets
import pytest
import torch
from nets import assert_same_bits, bits
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import InvalidInput, UnknownName
from truenorm.model.freeze import is_frozen, tracks

CASES = {
    "1d": (lambda: nn.BatchNorm1d(4), (8, 4)),
    "1d, of sequences": (lambda: nn.BatchNorm1d(4), (8, 4, 5)),
    "2d": (lambda: nn.BatchNorm2d(4), (8, 4, 3, 3)),
    "3d": (lambda: nn.BatchNorm3d(4), (8, 4, 2, 2, 2)),
    "synchronised": (lambda: nn.SyncBatchNorm(4), (8, 4, 3, 3)),
    "without affine": (lambda: nn.BatchNorm2d(4, affine=False), (8, 4, 3, 3)),
    "averaging": (lambda: nn.BatchNorm2d(4, momentum=None), (8, 4, 3, 3)),
    "in double precision": (lambda: nn.BatchNorm1d(4, dtype=torch.float64), (8, 4)),
    "ours": (lambda: tn.nn.BatchNorm2d(4), (8, 4, 3, 3)),
    "of another make": (lambda: nets.OwnBatchNorm(4), (8, 4)),
}
every_case = pytest.mark.parametrize("case", CASES)

WAYS = {
    "the model": lambda net: net.train(),
    "the layer": lambda net: net.get_submodule("bn1").train(),
    "each module": lambda net: [module.train(True) for module in net.modules()],
    "apply": lambda net: net.apply(lambda module: module.train()),
    "there and back": lambda net: net.eval().train(),
}


def trained():
    net = nets.plain()
    nets.train(net, nets.batches(6))
    return net


def step(net, size=8):
    """A training step of all that can be trained."""
    nets.train(net, nets.batches(1, size, last=size, seed=7))


def snapshot(net):
    """All there is to a model: modules, classes, modes, flags, hooks and what else hangs on them; tensors and values."""
    modules = [
        (name, id(m), type(m), {k: copy.copy(v) for k, v in vars(m).items()})
        for name, m in net.named_modules(remove_duplicate=False)
    ]
    tensors = {
        name: (id(t), t.requires_grad, t.dtype, t.tolist())
        for name, t in [*net.named_parameters(), *net.named_buffers()]
    }
    return modules, tensors


def moved(net, before):
    """Layers whose statistics are no longer those."""
    now = tn.statistics(net)
    return {name for name in before if now[name] != before[name]}


@every_case
def test_a_frozen_layer_evaluates_and_keeps_its_statistics_while_the_model_trains(case):
    make, shape = CASES[case]
    layer = make()
    net = nn.Sequential(nn.Identity(), layer)
    draw = lambda: torch.randn(shape, dtype=layer.running_mean.dtype) * 2 + 1  # noqa: E731  # a name for it
    net(draw())
    x, before = draw(), bits(net)
    expected = copy.deepcopy(net).eval()(x)
    assert tn.freeze(net) == ("1",)
    net.train()
    assert net.training and not layer.training and is_frozen(layer)
    assert_close(net(x), expected, rtol=0, atol=0)
    assert_same_bits(net.state_dict(), before)
    assert tn.unfreeze(net) == ("1",)
    assert layer.training and not is_frozen(layer)
    assert (net(x) - expected).abs().max() > 1e-3
    assert not torch.equal(layer.running_mean, before["1.running_mean"])


@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_asking_for_training_wakes_it(way):
    net = trained().eval()
    tn.freeze(net, "bn1")
    WAYS[way](net)
    before = tn.statistics(net)
    net(torch.randn(8, 4))
    assert not net.bn1.training and "bn1" not in moved(net, before)
    tn.unfreeze(net)
    assert net.bn1.training


def test_train_returns_the_layer_as_ever():
    layer = nn.BatchNorm1d(3)
    tn.freeze(layer)
    assert layer.train() is layer and layer.eval() is layer and layer.train(False) is layer


def test_an_activation_within_follows_the_model(timm):
    layer = timm.layers.norm_act.BatchNormAct2d(4, act_layer=nn.RReLU, drop_layer=nn.Dropout)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), layer)
    net(torch.randn(8, 2, 5, 5))
    tn.freeze(net)
    children = (layer.act, layer.drop)
    for mode in (False, True):
        net.train(mode)
        assert [layer.training, *(child.training for child in children)] == [False, mode, mode]
    before = bits(net)
    net(torch.randn(8, 2, 5, 5))
    assert_same_bits(net.state_dict(), before)
    tn.unfreeze(net)
    net.train()(torch.randn(8, 2, 5, 5))
    assert not torch.equal(layer.running_var, before["1.running_var"])


# What trains, and what does not


@pytest.mark.parametrize(("statistics", "affine"), [(True, False), (False, True), (True, True)])
def test_a_training_step_moves_what_is_not_frozen_and_nothing_else(statistics, affine):
    net = trained()
    tn.freeze(net, "bn1", statistics=statistics, affine=affine)
    before, state = tn.statistics(net), bits(net)
    step(net)
    assert moved(net, before) == ({"bn2"} if statistics else {"bn1", "bn2"})
    now = net.state_dict()
    same = {name for name in state if name.startswith("bn1.") and torch.equal(now[name], state[name])}
    expected = {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"} if statistics else set()
    assert same == expected | ({"bn1.weight", "bn1.bias"} if affine else set())
    assert not torch.equal(now["bn2.weight"], state["bn2.weight"])
    assert is_frozen(net.bn1) == statistics


def test_all_layers_frozen_all_statistics_are_equal():
    net = trained()
    assert tn.freeze(net) == ("bn1", "bn2")
    before = tn.statistics(net)
    for size in (8, 4, 16):
        step(net, size)
    assert tn.statistics(net) == before
    tn.unfreeze(net)
    step(net)
    assert moved(net, before) == {"bn1", "bn2"}


def test_gradients_reach_what_is_below():
    net = nets.plain()
    tn.freeze(net, affine=True)
    net.train()(torch.randn(8, 4)).sum().backward()
    assert bool(net.fc1.weight.grad.any()) and net.bn1.weight.grad is None


def test_a_watch_does_not_count_the_batches_of_a_frozen_layer():
    net = trained()
    tn.freeze(net, "bn1")
    before = tn.statistics(net)
    with tn.watch(net) as watched:
        step(net)
    assert list(watched["static-0.1"]) == ["bn2"]
    assert moved(net, before) == {"bn2"}


# Wrappers


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(net):
    return torch.compile(net, backend="eager")


WRAPPERS = {
    "data parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "compiled": compiled,
    "compiled and distributed": lambda net: nn.parallel.DistributedDataParallel(compiled(net)),
}


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("when", ["before", "after", "after a step"])
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_do_not_wake_it(wrap, when, group):
    torch.compiler.reset()
    net = trained()
    if when == "before":
        assert tn.freeze(net, "bn1") == ("bn1",)
    wrapped = WRAPPERS[wrap](net)
    if when == "after a step":
        step(wrapped)
    if when != "before":
        assert tn.freeze(wrapped, "bn1") == ("bn1",)
    before = tn.statistics(wrapped)
    step(wrapped)
    assert wrapped.training and not net.bn1.training
    assert moved(wrapped, before) == {"bn2"}
    assert tn.unfreeze(wrapped) == ("bn1",)
    assert net.bn1.training
    step(wrapped)
    assert moved(wrapped, before) == {"bn1", "bn2"}
    torch.compiler.reset()


# Copies


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
    "average": lambda net: AveragedModel(net).module,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ["torch", "ours", "timm"])
def test_a_copy_is_frozen_too_and_apart_from_the_original(how, kind, timm):
    layer = {
        "torch": nn.BatchNorm2d,
        "ours": tn.nn.BatchNorm2d,
        "timm": lambda width: tn.convert(timm.layers.norm_act.BatchNormAct2d(width)),
    }[kind](4)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), layer)
    net(torch.randn(8, 2, 5, 5))
    tn.freeze(net, affine=True)
    twin = COPIES[how](net)
    before, x = bits(twin), torch.randn(8, 2, 5, 5)
    twin.train()(x)
    assert is_frozen(twin[1]) and not twin[1].training
    assert_same_bits(twin.state_dict(), before)
    assert twin[1].train() is twin[1]

    net.eval()  # what is asked of one is not asked of the other
    assert tn.unfreeze(twin) == ("1",)
    assert twin[1].training and twin[1].weight.requires_grad
    assert is_frozen(net[1]) and not net[1].weight.requires_grad
    tn.unfreeze(net)
    assert not net[1].training and net[1].weight.requires_grad
    twin(x)
    assert not torch.equal(twin[1].running_mean, before["1.running_mean"])
    assert torch.equal(net[1].running_mean, before["1.running_mean"])


def test_a_state_dict_says_nothing_of_it():
    net, frozen = trained(), trained()
    tn.freeze(frozen, affine=True)
    assert list(frozen.state_dict()) == list(net.state_dict())
    frozen.load_state_dict(net.state_dict())
    assert_same_bits(frozen.state_dict(), net.state_dict())
    assert is_frozen(frozen.bn1)


# Converting


@pytest.mark.parametrize("kind", ["plain", "timm"])
def test_converting_does_not_wake_it(kind, timm):
    make = nn.BatchNorm2d if kind == "plain" else timm.layers.norm_act.BatchNormAct2d
    net = nn.Sequential(nn.Conv2d(2, 4, 3), make(4))
    net(torch.randn(8, 2, 5, 5))
    origin, before = type(net[1]), tn.statistics(net)
    tn.freeze(net)
    for to in ("truenorm", "torch"):
        tn.convert(net, to=to)
        net.train()(torch.randn(8, 2, 5, 5))
        assert is_frozen(net[1]) and tn.statistics(net) == before
    assert type(net[1]) is origin
    tn.unfreeze(tn.convert(net))
    net(torch.randn(8, 2, 5, 5))
    assert moved(net, before) == {"1"}


def test_a_conversion_while_frozen_is_lossless():
    net = trained()
    before = snapshot(net)
    tn.freeze(net, affine=True)
    tn.convert(net)
    tn.convert(net, to="sync")
    tn.convert(net, to="torch")
    tn.unfreeze(net)
    assert snapshot(net) == before


# There and back


class Many(nn.Module):
    """A norm of every sort, some of them under two names, with hooks, switched off, fixed, or half fixed."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(4, eps=1e-3, momentum=0.3)
        self.average = nn.BatchNorm1d(4, momentum=None)
        self.again = self.first
        self.bare = nn.BatchNorm1d(4, affine=False)
        self.asleep = nn.BatchNorm1d(4).eval()
        self.fixed = nn.BatchNorm1d(4)
        self.fixed.bias.requires_grad_(False)
        self.ours = tn.nn.BatchNorm1d(4, tracking="torch")
        self.first.register_forward_hook(lambda *args: None)
        self.first.note = "mine"

    def forward(self, x):
        for layer in (self.first, self.average, self.again, self.bare, self.asleep, self.fixed, self.ours):
            x = layer(x)
        return x


@pytest.mark.parametrize("names", ["*", "first", ("fixed", "a*")], ids=str)
@pytest.mark.parametrize(("statistics", "affine"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("times", [1, 2])
def test_freezing_and_thawing_once_leaves_nothing(names, statistics, affine, times):
    net = Many()
    net(torch.randn(8, 4))
    before = snapshot(net)
    for _ in range(times):
        found = tn.freeze(net, names, statistics=statistics, affine=affine)
    assert snapshot(net) != before
    assert tn.unfreeze(net, names) == found
    assert snapshot(net) == before
    assert tn.unfreeze(net) == ()
    assert snapshot(net) == before


@pytest.mark.parametrize("asked", [[True], [False], [True, False], [False, True], [True, False, False]], ids=str)
@pytest.mark.parametrize("start", [True, False])
def test_the_mode_is_the_last_that_was_asked_for(start, asked):
    net = trained().train(start)
    tn.freeze(net)
    tn.unfreeze(net)
    assert net.bn1.training == start
    tn.freeze(net)
    for mode in asked:
        net.train(mode)
        tn.freeze(net)  # once more changes nothing
    tn.unfreeze(net)
    assert {module.training for module in net.modules()} == {asked[-1]}


@pytest.mark.parametrize(
    ("how", "mode"), [("measure", True), ("repair", True), ("using", True), ("using", False), ("diagnose", False)]
)
def test_a_pass_is_not_taken_for_a_mode_that_was_asked_for(how, mode):
    net, data = trained().train(mode), nets.batches(4)
    tn.freeze(net, "bn1")
    if how == "using":
        with tn.using(net):
            net.train(not mode)
    else:
        getattr(tn, how)(net, data)
    tn.unfreeze(net)
    assert net.bn1.training == mode


def test_statistics_and_parameters_may_be_frozen_one_after_the_other():
    net = trained()
    before = snapshot(net)
    tn.freeze(net, "bn1", statistics=False, affine=True)
    tn.freeze(net, "bn1")
    assert is_frozen(net.bn1) and not net.bn1.weight.requires_grad
    tn.freeze(net, "bn1", affine=True)  # the gradients that were on are not forgotten
    assert tn.unfreeze(net) == ("bn1",)
    assert snapshot(net) == before


def test_what_is_not_frozen_is_left_alone():
    net = trained()
    net.bn2.eval().requires_grad_(False)
    net.bn2.train = own = lambda mode=True: net.bn2
    before = snapshot(net)
    tn.freeze(net, "bn1")
    assert tn.unfreeze(net) == ("bn1",)
    assert snapshot(net) == before and net.bn2.train is own


def test_a_train_of_somebody_elses_comes_back():
    net = trained()
    net.bn1.train = own = lambda mode=True: net.bn1
    tn.freeze(net)
    tn.unfreeze(net)
    assert vars(net.bn1).get("train") is own


def test_a_layer_under_two_names_is_one_layer():
    net = Many()
    assert "first" in tn.freeze(net) and is_frozen(net.again)
    with pytest.raises(UnknownName, match="unknown layer 'again'"):
        tn.unfreeze(net, "again")
    before = tn.statistics(net)
    net.train()(torch.randn(8, 4))
    assert tn.statistics(net) == before
    tn.unfreeze(net, "first")
    assert not is_frozen(net.again) and is_frozen(net.average)


def test_layers_that_share_their_gamma():
    net = trained()
    net.other = nn.BatchNorm1d(6)
    net.other.weight = net.bn1.weight
    tn.freeze(net, affine=True)
    tn.unfreeze(net)
    assert net.bn1.weight.requires_grad


# Names and refusals


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("*", ("a.0", "a.1", "b.0", "head")),
        ("a.*", ("a.0", "a.1")),
        ("*.0", ("a.0", "b.0")),
        (["head", "a.[1-9]"], ("a.1", "head")),
        (("?.1", "a.1"), ("a.1",)),
    ],
)
def test_layers_are_chosen_by_patterns(names, expected):
    def two(kind):
        return nn.Sequential(*[kind(3) for _ in range(2)])

    net = nn.ModuleDict({"a": two(nn.BatchNorm1d), "b": nn.Sequential(nn.BatchNorm1d(3)), "head": nn.BatchNorm1d(3)})
    assert tn.freeze(net, names) == expected
    assert [name for name, module in net.named_modules() if is_frozen(module)] == list(expected)
    assert tn.unfreeze(net, names) == expected


@pytest.mark.parametrize("how", [tn.freeze, tn.unfreeze])
@pytest.mark.parametrize("names", ["bn3", ["bn1", "bn3"], ("*", "bn3.*")], ids=str)
def test_a_pattern_that_fits_no_layer_is_refused_and_the_nearest_named(how, names):
    net = trained()
    before = snapshot(net)
    with pytest.raises(UnknownName, match=r"unknown layer 'bn3(\.\*)?'; did you mean 'bn2' or 'bn1'\? Known: bn1, bn2"):
        how(net, names)
    assert snapshot(net) == before


def test_a_layer_that_stores_nothing_has_nothing_to_freeze():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    before = snapshot(net)
    with pytest.raises(
        InvalidInput,
        match=r"layer '1' has no running statistics \(track_running_stats=False\): it normalises by its batch in eval\(\) "
        "too, and there is nothing to freeze; nothing was changed",
    ):
        tn.freeze(net, affine=True)
    assert snapshot(net) == before
    assert tn.freeze(net, "0") == ("0",)
    assert tn.freeze(net, "1", statistics=False, affine=True) == ("1",)
    assert not net[1].weight.requires_grad and net[0].weight.requires_grad
    assert [tracks(layer) for layer in net] == [True, False]


def test_nothing_to_freeze_is_said():
    with pytest.raises(InvalidInput, match="nothing is to be frozen: statistics=False and affine=False"):
        tn.freeze(trained(), statistics=False)
    for how in (tn.freeze, tn.unfreeze):
        with pytest.raises(InvalidInput, match="Linear has no batch-norm layer"):
            how(nn.Linear(2, 2))


# Passes


@pytest.mark.parametrize("flow", ["joint", "sequential", "eval"])
@pytest.mark.parametrize("how", [{}, {"memory": 1}], ids=["giant", "rounds"])
@pytest.mark.parametrize("training", [True, False])
def test_a_pass_leaves_frozen_layers_frozen_whatever_the_mode(flow, how, training):
    net, data = trained().train(training), [x for x, _ in nets.batches(6)]
    asleep = copy.deepcopy(net).train()
    asleep.bn1.eval()
    expected = tn.measure(asleep, data, flow=flow, **how)
    tn.freeze(net, "bn1")
    before = bits(net)
    found = tn.measure(net, data, flow=flow, **how)
    assert found.provenance.frozen == ("bn1",)
    assert list(found) == (["bn1", "bn2"] if flow == "eval" else ["bn2"])
    assert found == expected
    assert_same_bits(net.state_dict(), before)
    assert is_frozen(net.bn1) and not net.bn1.training


def test_what_is_measured_behind_a_frozen_layer_is_what_it_gives():
    net, data = trained(), [x for x, _ in nets.batches(6)]
    tn.freeze(net, "bn1")
    with torch.no_grad():
        h = copy.deepcopy(net).eval()[:4](torch.cat(data)).double()
    found = tn.measure(net.train(), data)["bn2"]
    assert_close(found.mean, h.mean(0), rtol=1e-5, atol=1e-6)
    assert_close(found.var, h.var(0, correction=0), rtol=1e-5, atol=1e-6)
    tn.unfreeze(net)
    thawed = tn.measure(net.train(), data)
    assert list(thawed) == ["bn1", "bn2"] and (thawed["bn2"].mean - found.mean).abs().max() > 1e-3

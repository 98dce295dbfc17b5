import copy

import pytest
import torch
from nets import Frozen, OwnBatchNorm, plain
from torch import nn

import truenorm as tn
from truenorm.errors import InvalidInput
from truenorm.model.layers import batch_norms, unwrap


class Activated(nn.BatchNorm2d):
    """A subclass, as networks have them."""


KINDS = {
    "1d": lambda: nn.BatchNorm1d(2),
    "2d": lambda: nn.BatchNorm2d(2),
    "3d": lambda: nn.BatchNorm3d(2),
    "sync": lambda: nn.SyncBatchNorm(2),
    "subclass": lambda: Activated(2),
    "own": lambda: OwnBatchNorm(2),
    "not affine": lambda: nn.BatchNorm2d(2, affine=False),
    "frozen": lambda: Frozen(2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_batch_norm_is_found(kind):
    layer = KINDS[kind]()
    assert batch_norms(nn.Sequential(nn.Linear(1, 1), nn.Sequential(layer))) == {"1.0": layer}


@pytest.mark.parametrize(
    "other",
    [
        nn.InstanceNorm2d(2, track_running_stats=True),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        nn.BatchNorm2d(2, track_running_stats=False),
    ],
    ids=lambda m: type(m).__name__,
)
def test_other_norms_are_left_out(other):
    assert list(batch_norms(nn.Sequential(other, nn.BatchNorm2d(2)))) == ["1"]


def test_the_model_itself_may_be_the_layer():
    layer = nn.BatchNorm1d(2)
    assert batch_norms(layer) == {"": layer}


def test_order_is_that_of_registration():
    assert list(batch_norms(plain())) == ["bn1", "bn2"]


def test_a_shared_module_is_listed_once():
    layer = nn.BatchNorm1d(2)
    assert batch_norms(nn.ModuleDict({"a": layer, "b": layer})) == {"a": layer}


def test_timm(timm):
    from timm.layers import BatchNormAct2d

    layer = BatchNormAct2d(2)
    assert batch_norms(nn.Sequential(layer)) == {"0": layer}


def test_torchvision_frozen(torchvision):
    """It has the buffers, so it carries statistics; that it never updates them is the watch's affair."""
    layer = torchvision.ops.FrozenBatchNorm2d(2)
    assert batch_norms(nn.Sequential(layer)) == {"0": layer}


def test_whole_networks(torchvision, timm):
    assert len(batch_norms(torchvision.models.resnet18())) == 20
    assert len(batch_norms(torchvision.models.mobilenet_v3_small())) == 34
    assert len(batch_norms(timm.create_model("efficientnet_b0"))) == 49
    with pytest.raises(InvalidInput, match="ConvNeXt has no batch-norm layer with running statistics$"):
        batch_norms(torchvision.models.convnext_tiny())


def test_compiled_networks_and_parts_keep_their_names():
    net = plain()
    assert batch_norms(torch.compile(net, backend="eager")) == batch_norms(net)
    part = nn.Sequential(torch.compile(plain(), backend="eager"), nn.BatchNorm1d(3))
    assert list(batch_norms(part)) == ["0.bn1", "0.bn2", "1"]
    inplace = plain()
    inplace.compile(backend="eager")
    assert list(batch_norms(inplace)) == ["bn1", "bn2"]


def test_data_parallel_networks_keep_their_names():
    net = plain()
    assert batch_norms(nn.DataParallel(net)) == batch_norms(net)
    assert batch_norms(nn.DataParallel(torch.compile(net, backend="eager"))) == batch_norms(net)
    assert unwrap(torch.compile(nn.DataParallel(net), backend="eager")) is net
    assert unwrap(net) is net


def test_a_network_without_is_refused():
    with pytest.raises(InvalidInput, match="Linear has no batch-norm layer with running statistics$"):
        batch_norms(nn.Linear(1, 1))


def test_layers_that_track_nothing_are_named():
    net = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(InvalidInput, match=r"Sequential has no .* \(0, 1: track_running_stats=False\)"):
        tn.statistics(net)


@pytest.mark.parametrize("lazy", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d])
def test_lazy_layers_are_refused_until_they_have_a_shape(lazy):
    net = nn.Sequential(nn.Identity(), lazy())
    with pytest.raises(InvalidInput, match="layer '1' is lazy and has no shape yet; run one batch"):
        batch_norms(net)
    shape = {nn.LazyBatchNorm1d: (4, 2), nn.LazyBatchNorm2d: (4, 2, 1, 1), nn.LazyBatchNorm3d: (4, 2, 1, 1, 1)}[lazy]
    net(torch.randn(shape))
    assert list(batch_norms(net)) == ["1"]


def test_a_planted_bug_is_found(monkeypatch):
    """Asking for torch's own types alone misses subclasses."""
    monkeypatch.setattr("truenorm.model.layers._looks_like_batch_norm", lambda module: type(module) is nn.BatchNorm2d)
    test_every_kind_of_batch_norm_is_found("2d")
    with pytest.raises(InvalidInput, match="no batch-norm layer"):
        test_every_kind_of_batch_norm_is_found("subclass")


def test_copies_have_the_same_names():
    net = plain()
    assert list(batch_norms(copy.deepcopy(net))) == list(batch_norms(net))


class Around(nn.Module):
    """A program inside a module."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.inner(x))


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())


def score(output, batch):
    return -output.square().mean(1)


X = torch.arange(64.0).reshape(16, 4)
PROGRAMS = {
    "scripted": lambda: torch.jit.script(small()),
    "traced": lambda: torch.jit.trace(small(), X, check_trace=False),
    "a scripted part": lambda: Around(torch.jit.script(small())),
    "exported": lambda: torch.export.export(small(), (X,)).module(),
    "an exported part": lambda: Around(torch.export.export(small(), (X,)).module()),
    "an exported part without batch norm": lambda: Around(torch.export.export(nn.Linear(4, 8), (X,)).module()),
}
CALLS = {
    "measure": lambda model: tn.measure(model, [X, X]),
    "measure, eval": lambda model: tn.measure(model, [X, X], flow="eval"),
    "measure, sequential": lambda model: tn.measure(model, [X, X], flow="sequential"),
    "repair": lambda model: tn.repair(model, [X] * 4, score=score),
    "watch": tn.watch,
    "using": lambda model: tn.using(model).__enter__(),
    "freeze": tn.freeze,
    "unfreeze": tn.unfreeze,
    "convert": tn.convert,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_refused_before_anything_is_touched(name, call):
    model = PROGRAMS[name]()
    before = [(module, module.training) for module in model.modules()]
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    with pytest.raises(InvalidInput, match=r"is an? (TorchScript|exported) program, .*; nothing was changed"):
        CALLS[call](model)
    assert [(module, module.training) for module in model.modules()] == before
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_statistics_of_a_program_can_be_read_and_written():
    model = torch.jit.script(small())
    other = tn.measure(small(), [X])
    tn.assign(model, other)
    assert [list(found) for found in (tn.statistics(model), other)] == [["1"], ["1"]]
    torch.testing.assert_close(tn.statistics(model)["1"].mean, other["1"].mean.float())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_part_without_batch_norm_is_no_obstacle():
    model = Around(torch.jit.script(nn.Linear(4, 8)))
    for flow in ("joint", "eval", "sequential"):
        assert list(tn.measure(model, [X, X], flow=flow)) == ["norm"]
    assert tn.repair(model, [X] * 4, score=score).previous == tn.statistics(Around(nn.Linear(4, 8)))
    tn.diagnose(model, [X] * 4, score=score)

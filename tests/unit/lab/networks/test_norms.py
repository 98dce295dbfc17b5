import pytest
from inline_snapshot import snapshot
from torch import nn

from truenorm.errors import InvalidInput
from truenorm.lab.networks.norms import BatchNorm, batch_free_norm, norm_layer, paper_groups, resnet_norm_layers
from truenorm.lab.networks.plain import mlp
from truenorm.nn import BatchFreeNorm


def test_batch_norm_everywhere():
    make = norm_layer("bn")
    assert [type(make(8)) for _ in range(3)] == [BatchNorm] * 3


def test_in_turn_and_batch_norm_first():
    make = norm_layer("bn-bfn", bfn="group:2")
    layers = [make(channels) for channels in (8, 16, 24, 32)]
    assert [type(layer) for layer in layers] == [BatchNorm, BatchFreeNorm] * 2
    assert [layer.num_features for layer in layers[::2]] == [8, 24]
    assert [(layer.num_groups, layer.num_channels) for layer in layers[1::2]] == [(2, 16), (2, 32)]


def test_each_network_starts_anew():
    for _ in range(2):
        network = mlp((1, 8, 8), 10, norm_layer=norm_layer("bn-bfn", bfn="layer"), widths=(8, 8, 8))
        norms = [m for m in network if isinstance(m, BatchNorm | BatchFreeNorm)]
        assert [type(norm) for norm in norms] == [BatchNorm, BatchFreeNorm, BatchNorm]


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(4, 1), (8, 2), (16, 4), (24, 6), (28, 7), (32, 2), (64, 4), (128, 8), (100, 5), (3, 1), (7, 1), (48, 3)],
)
def test_group_norm_in_groups_of_about_16(channels, groups):
    norm = norm_layer("gn")(channels)
    assert type(norm) is BatchFreeNorm
    assert norm.num_groups == groups


@pytest.mark.parametrize(
    ("bfn", "groups"),
    [(None, 1), ("layer", 1), ("instance", 16), ("group:4", 4), ("group:1", 1), ("group:16", 16), ("group:64", 16)],
)
def test_batch_free_norms(bfn, groups):
    norm = batch_free_norm(bfn)(16)
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels) == (groups, 16)


@pytest.mark.parametrize(
    "bfn", ["", "group", "group:", "group:0", "group:-1", "group:4x", "group:4:4", "Layer", "batch:4", "group:²"]
)
def test_what_is_no_batch_free_norm(bfn):
    with pytest.raises(InvalidInput, match="is not a batch-free norm; it takes group:G"):
        batch_free_norm(bfn)
    with pytest.raises(InvalidInput):
        norm_layer("bn", bfn=bfn)
    with pytest.raises(InvalidInput):
        resnet_norm_layers("bn", bfn=bfn)


def test_groups_that_do_not_divide_the_channels():
    with pytest.raises(InvalidInput, match="4 groups do not divide 6 channels"):
        batch_free_norm("group:4")(6)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 3), (16, 16), (64, 64), (512, 64), (96, 48), (100, 50), (67, 1)]
)
def test_the_papers_groups(channels, groups):
    assert paper_groups(channels) == groups
    assert batch_free_norm(None, unless_said=paper_groups)(channels).num_groups == groups


def test_what_is_said_goes_before_what_goes_unsaid():
    assert batch_free_norm("group:4", unless_said=paper_groups)(64).num_groups == 4


@pytest.mark.parametrize(
    ("norm", "others", "middle"),
    [("bn", BatchNorm, BatchNorm), ("bn-bfn", BatchNorm, BatchFreeNorm), ("gn", BatchFreeNorm, BatchFreeNorm)],
)
def test_the_norms_of_a_resnet(norm, others, middle):
    made = resnet_norm_layers(norm)
    assert [[type(make(64)) for _ in range(3)] for make in made] == [[others] * 3, [middle] * 3]
    if norm == "gn":
        assert [make(64).num_groups for make in made] == [4, 4]
    if norm == "bn-bfn":
        assert made[1](128).num_groups == 64
        assert resnet_norm_layers(norm, bfn="group:2")[1](128).num_groups == 2


def test_the_sentence():
    with pytest.raises(InvalidInput) as caught:
        batch_free_norm("grup:4")
    assert str(caught.value) == snapshot(
        "--bfn 'grup:4' is not a batch-free norm; it takes group:G (such as group:4), layer or instance"
    )

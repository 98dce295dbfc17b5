"""Our layers in the place of torch's: torch's own module samples, and everything people do with a module."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.testing import assert_close

import truenorm as tn
from truenorm.errors import UnknownName
from truenorm.nn.batchnorm import LONG_TRAINED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing torch's test machinery warns of what it does not find
    from torch.testing._internal.common_modules import module_db

CLASSES = {nn.BatchNorm1d: tn.nn.BatchNorm1d, nn.BatchNorm2d: tn.nn.BatchNorm2d, nn.BatchNorm3d: tn.nn.BatchNorm3d}
SHAPES = {tn.nn.BatchNorm1d: (6, 3), tn.nn.BatchNorm2d: (6, 3, 4, 4), tn.nn.BatchNorm3d: (6, 3, 2, 2, 3)}
INFOS = [info for info in module_db if info.module_cls in CLASSES]
TRACKINGS = ("pooled", "torch", "dynamic")


def ours_of(info, tracking):
    return lambda *args, **kwargs: CLASSES[info.module_cls](*args, **kwargs, tracking=tracking)


def samples(info, dtype, training):
    torch.manual_seed(0)
    found = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tracking", TRACKINGS)
def test_torchs_own_samples_give_torchs_outputs_gradients_and_buffers(info, training, dtype, tracking):
    for sample in samples(info, dtype, training):
        made = sample.constructor_input
        theirs = info.module_cls(*made.args, **made.kwargs, dtype=dtype).train(training)
        ours = ours_of(info, tracking)(*made.args, **made.kwargs, dtype=dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        (x,) = sample.forward_input.args
        a, b = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
        for _ in range(2):
            expected, got = theirs(a), ours(b)
            assert_close(got, expected, rtol=0, atol=0)
            expected.square().sum().backward()
            got.square().sum().backward()
        assert_close(b.grad, a.grad, rtol=0, atol=0)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(one.grad, other.grad, rtol=0, atol=0)
        if tracking == "torch":
            assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_wrong_input_gets_torchs_error(info):
    tried = 0
    for wrong in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        made = wrong.module_error_input.constructor_input
        (x,) = wrong.module_error_input.forward_input.args
        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            CLASSES[info.module_cls](*made.args, **made.kwargs)(x)
        tried += 1
    assert tried


@pytest.mark.parametrize("cls", SHAPES)
def test_a_wrong_number_of_dimensions_and_one_value_per_channel_are_refused_as_torch_does(cls):
    with pytest.raises(ValueError, match="expected"):
        cls(3)(torch.randn(3))
    shape = SHAPES[cls]
    single = cls(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        single(torch.randn(1, 3, *[1] * (len(shape) - 2)))
    assert single.num_batches_tracked == 0


@pytest.mark.parametrize("tracking", TRACKINGS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_another_number_of_channels_is_refused_and_changes_nothing(tracking, affine, channels):
    norm = tn.nn.BatchNorm1d(3, affine=affine, tracking=tracking)
    kept = copy.deepcopy(norm.state_dict())
    with pytest.raises(RuntimeError, match=f"running_mean should contain {channels} elements not 3"):
        norm(torch.randn(4, channels))
    assert_close(norm.state_dict(), kept, rtol=0, atol=0)


@pytest.mark.parametrize("cls", SHAPES)
@pytest.mark.parametrize("tracking", TRACKINGS)
@pytest.mark.parametrize("affine", [True, False])
def test_first_and_second_derivatives(cls, tracking, affine):
    torch.manual_seed(0)
    norm = cls(3, affine=affine, tracking=tracking, dtype=torch.float64)
    x = torch.randn(SHAPES[cls], dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        norm.train(training)
        parameters = tuple(norm.parameters())

        def call(x, *given):
            return functional_call(norm, dict(zip(("weight", "bias"), given, strict=False)), (x,))

        assert torch.autograd.gradcheck(call, (x, *parameters))
        assert torch.autograd.gradgradcheck(call, (x, *parameters))


@pytest.mark.parametrize("tracking", TRACKINGS)
def test_copies_and_pickles_go_on_alike(tracking):
    norm = tn.nn.BatchNorm2d(3, momentum=0.3, eps=1e-3, tracking=tracking)
    norm(torch.randn(4, 3, 2, 2))
    x = torch.randn(4, 3, 2, 2)
    others = copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))
    norm(x)
    for other in others:
        assert type(other) is tn.nn.BatchNorm2d and other.tracking == tracking
        other(x)
        assert_close(other.state_dict(), norm.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("cls", SHAPES)
def test_state_dicts_load_strictly_both_ways(cls):
    theirs = cls.origin(3)
    theirs(torch.randn(SHAPES[cls]))
    ours = cls(3)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    ours(torch.randn(SHAPES[cls]))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_close(theirs.state_dict(), ours.state_dict(), rtol=0, atol=0)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_channels_last_stays_channels_last():
    ours, theirs = tn.nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    x = torch.randn(4, 5, 6, 6).contiguous(memory_format=torch.channels_last)
    for training in (True, False):
        y = ours.train(training)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        if training:
            assert_close(y, theirs(x), rtol=0, atol=0)


def test_autocast_keeps_statistics_in_float32():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), tn.nn.BatchNorm2d(4))
    twin = copy.deepcopy(net)
    x = torch.randn(4, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        same = nn.functional.batch_norm(twin[0](x), None, None, twin[1].weight, twin[1].bias, True)
        values = twin[0](x)
    assert y.dtype == torch.bfloat16
    assert_close(y, same, rtol=0, atol=0)
    assert net[1].running_mean.dtype == torch.float32
    assert_close(net[1].running_var, values.float().var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)
    assert net.eval()(x).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("affine", [True, False])
def test_other_types_follow_torch(dtype, affine):
    torch.manual_seed(0)
    ours = tn.nn.BatchNorm2d(4, affine=affine).to(dtype)
    theirs = nn.BatchNorm2d(4, affine=affine).to(dtype)
    exact = tn.nn.BatchNorm2d(4, affine=affine, dtype=torch.float64)
    for _ in range(5):
        x = torch.randn(8, 4, 5, 5, dtype=dtype) * 3 + 20
        # Without a weight torch computes in the buffers' type, ours in at least float32.
        within = (
            {"rtol": 0, "atol": 0}
            if affine
            else {"rtol": 8 * torch.finfo(dtype).eps, "atol": 0.05 if dtype.itemsize == 2 else 1e-12}
        )
        assert_close(ours(x), theirs(x), **within)
        exact(x.double())
    assert ours.running_mean.dtype == ours.running_var.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    assert_close(ours.running_mean.double(), exact.running_mean, rtol=tolerance, atol=0)
    assert_close(ours.running_var.double(), exact.running_var, rtol=tolerance, atol=0)
    assert_close(
        ours.eval()(x).double(), exact.eval()(x.double()), rtol=0.05, atol=0.3 if dtype.itemsize == 2 else 1e-9
    )


@pytest.mark.parametrize("tracking", TRACKINGS)
@pytest.mark.parametrize("training", [True, False])
def test_a_traced_graph_does_what_the_module_does(tracking, training):
    net = nn.Sequential(nn.Linear(4, 3), tn.nn.BatchNorm1d(3, tracking=tracking), nn.ReLU()).train(training)
    twin = copy.deepcopy(net)
    traced = torch.fx.symbolic_trace(net)
    assert net[1].num_batches_tracked == 0  # tracing is no batch
    for _ in range(3):
        x = torch.randn(5, 4)
        assert_close(traced(x), twin(x), rtol=0, atol=0)
    kept = dict(traced.named_buffers()) | dict(traced.named_parameters())  # inference has no use for the count
    expected = dict(twin.named_buffers()) | dict(twin.named_parameters())
    assert_close(kept, {key: value for key, value in expected.items() if key in kept}, rtol=0, atol=0)
    assert ("1.num_batches_tracked" in kept) == training
    again = pickle.loads(pickle.dumps(traced))
    assert_close(again(x), twin(x), rtol=0, atol=0)


@pytest.mark.parametrize("tracking", TRACKINGS)
@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
def test_compiles_as_one_graph_in_training_and_inference(tracking, momentum):
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(4, 3), tn.nn.BatchNorm1d(3, momentum=momentum, tracking=tracking), nn.ReLU())
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for training in (True, True, True, False):
        net.train(training)
        twin.train(training)
        x = torch.randn(5, 4)
        a, b = compiled(x), twin(x)
        assert_close(a, b)
        if training:
            a.square().sum().backward()
            b.square().sum().backward()
    assert_close(net[0].weight.grad, twin[0].weight.grad)
    kept, expected = ({k: v for k, v in one.named_buffers() if k != "1.rows"} for one in (net, twin))
    assert_close(kept, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # inside torch
def test_inductor_takes_it_too():
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), tn.nn.BatchNorm2d(4, momentum=None), nn.ReLU())
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True)
    for _ in range(3):
        x = torch.randn(4, 3, 6, 6)
        assert_close(compiled(x), twin(x))
    assert_close(dict(net.named_buffers()), dict(twin.named_buffers()))
    assert_close(compiled.eval()(x), twin.eval()(x))


@pytest.mark.slow
def test_an_exported_program_loads_where_truenorm_is_not(tmp_path):
    net = tn.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    net(torch.randn(4, 3, 6, 6))
    net.eval()
    x = torch.randn(2, 3, 6, 6)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save((x, net(x)), tmp_path / "expected.pt")
    script = (
        "import sys, torch\n"
        "sys.modules['truenorm'] = None\n"  # importing it now fails
        f"x, y = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"net = torch.export.load({str(tmp_path / 'net.pt2')!r}).module()\n"
        "torch.testing.assert_close(net(x), y)\n"
        "assert net(x[:1]).shape[0] == 1\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True, timeout=120)


def test_training_exports_with_its_update():
    net = tn.nn.BatchNorm1d(3)
    twin = copy.deepcopy(net)
    x = torch.randn(5, 3)
    exported = torch.export.export(net, (x,)).module()
    for _ in range(3):
        x = torch.randn(5, 3)
        assert_close(exported(x), twin(x))
    assert_close(exported.running_var, twin.running_var)


def test_functional_call_updates_the_buffers_it_is_given():
    net = tn.nn.BatchNorm1d(3)
    buffers = {key: value.clone() for key, value in net.named_buffers()}
    x = torch.randn(5, 3)
    functional_call(net, buffers, (x,))
    assert_close(buffers["running_mean"], x.mean(0))
    assert net.num_batches_tracked == 0


def test_a_training_forward_leaves_the_graph_of_an_evaluation_forward_alone():
    net = tn.nn.BatchNorm1d(3)
    net(torch.randn(5, 3))
    x = torch.randn(5, 3, requires_grad=True)
    y = net.eval()(x)
    net.train()(torch.randn(5, 3))
    y.sum().backward()  # torch's layer allows it: its update is past the version counter
    assert x.grad is not None


def test_a_parametrized_weight_is_used():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    norm = tn.nn.BatchNorm1d(3)
    plain = copy.deepcopy(norm)
    nn.utils.parametrize.register_parametrization(norm, "weight", Doubled())
    x = torch.randn(5, 3)
    assert_close(norm(x), 2 * plain(x))


def test_an_empty_batch_moves_nothing():
    net = tn.nn.BatchNorm2d(3)
    assert net(torch.empty(0, 3, 2, 2)).shape == (0, 3, 2, 2)
    assert_close(net.state_dict(), tn.nn.BatchNorm2d(3).state_dict())


def test_tracking_switched_off_late_and_on_again_is_torchs():
    for tracking in TRACKINGS:
        ours, theirs = tn.nn.BatchNorm1d(3, tracking=tracking), nn.BatchNorm1d(3)
        ours(torch.randn(5, 3))
        theirs.load_state_dict(ours.state_dict())
        kept = copy.deepcopy(ours.state_dict())
        ours.track_running_stats = theirs.track_running_stats = False
        for training in (True, False):
            x = torch.randn(5, 3)
            assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=0, atol=0)
        assert_close(ours.state_dict(), kept, rtol=0, atol=0)
        ours.track_running_stats = True
        ours.train()(x)
        assert ours.num_batches_tracked == 2


def test_without_running_statistics_it_is_torchs():
    ours, theirs = tn.nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3, track_running_stats=False)
    assert list(ours.state_dict()) == ["weight", "bias"]
    for training in (True, False):
        x = torch.randn(5, 3)
        assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=0, atol=0)


def without_counts():
    state = {"weight": torch.ones(3), "bias": torch.zeros(3)}
    return state | {"running_mean": torch.full((3,), 5.0), "running_var": torch.full((3,), 9.0)}


@pytest.mark.parametrize("counts", [{}, {"num_batches_tracked": torch.tensor(0)}])
def test_statistics_without_counts_are_not_wiped_by_the_first_batch(counts):
    net = tn.nn.BatchNorm1d(3)
    net.load_state_dict(without_counts() | counts, strict=True)
    assert net.num_batches_tracked == LONG_TRAINED
    net(torch.randn(64, 3))
    assert_close(net.running_mean, torch.full((3,), 4.5), rtol=0, atol=0.1)


def test_initial_statistics_without_counts_are_replaced_by_the_first_batch():
    net = tn.nn.BatchNorm1d(3)
    state = without_counts() | {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    net.load_state_dict(state, strict=True)
    x = torch.randn(64, 3) + 3
    net(x)
    assert_close(net.running_mean, x.mean(0))


def test_torchs_tracking_believes_the_count_that_is_loaded():
    net = tn.nn.BatchNorm1d(3, tracking="torch")
    net.load_state_dict(without_counts())
    assert net.num_batches_tracked == 0


def test_averaged_weights_get_pooled_statistics_from_torchs_own_update():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), tn.nn.BatchNorm1d(3))
    averaged = AveragedModel(net)
    data = [torch.randn(5, 4) + shift for shift in (0.0, 4.0, 8.0)]
    for x in data:
        net(x)
        averaged.update_parameters(net)
    update_bn(data, averaged)
    values = averaged.module[0](torch.cat(data))
    assert_close(averaged.module[1].running_mean, values.mean(0))
    assert_close(averaged.module[1].running_var, values.var(0, correction=0))
    assert averaged.module[1].momentum == 0.1


def test_buffers_averaged_with_the_weights_stay_usable():
    net = tn.nn.BatchNorm1d(3)
    averaged = AveragedModel(net, use_buffers=True)
    for _ in range(20):
        net(torch.randn(50, 3) + 2)
        averaged.update_parameters(net)
    averaged.train()
    averaged(torch.randn(50, 3) + 2)
    assert_close(averaged.module.running_mean, torch.full((3,), 2.0), rtol=0, atol=0.3)


def test_reset_starts_over():
    net = tn.nn.BatchNorm1d(3)
    net(torch.randn(50, 3) + 9)
    net.reset_running_stats()
    x = torch.randn(50, 3)
    net(x)
    assert_close(net.running_mean, x.mean(0))


def test_it_says_how_it_tracks_and_refuses_what_it_does_not_know():
    assert "tracking='pooled'" in repr(tn.nn.BatchNorm1d(3))
    with pytest.raises(UnknownName, match="pooled"):
        tn.nn.BatchNorm1d(3, tracking="pooling")


@pytest.mark.parametrize("key", ["weight", "bias", "running_var"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_parameters_and_buffers_of_another_size_are_torchs_error(key, momentum):
    """A pruned layer, say: the kernel itself would read past the tensor."""
    layer = tn.nn.BatchNorm1d(4, momentum=momentum)
    short = torch.ones(2)
    setattr(layer, key, nn.Parameter(short) if key in ("weight", "bias") else short)
    with pytest.raises(RuntimeError):
        layer(torch.randn(8, 4))


def test_a_checkpoint_that_is_assigned_is_not_written_to():
    state = nn.BatchNorm1d(2).state_dict() | {"running_mean": torch.ones(2)}
    layer = tn.nn.BatchNorm1d(2)
    layer.load_state_dict(state, assign=True)
    assert layer.num_batches_tracked == LONG_TRAINED and state["num_batches_tracked"] == 0

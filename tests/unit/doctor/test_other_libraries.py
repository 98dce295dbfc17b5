"""Networks of torchvision, timm, transformers and ultralytics go through what there is to do, and come back as they were."""

import copy

import pytest
import torch
import zoo
from torch import nn
from torch.nn import functional as F
from zoo import PATIENTS

import truenorm as tn
from truenorm.doctor.remedy import Nothing, RepairStatistics, Unfreeze
from truenorm.errors import NotMeasurable
from truenorm.model.layers import batch_norms

SLOW = (
    "torchvision DeepLabV3 with aux",
    "torchvision GoogLeNet, aux in train() alone",
    "torchvision MobileNetV2",
    "timm LeViT",
    "timm MobileViT",
    "timm ResNet with a frozen stem",
    "ultralytics YOLO",
)
"""Each takes eight seconds or more, and others are of its kind."""


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PATIENTS], scope="module"
)
def admitted(request):
    """A network, how it is run, and data; made once."""
    library = request.param.split()[0]
    if library in ("torchvision", "timm", "ultralytics"):
        request.getfixturevalue("timm" if library == "timm" else "torchvision")
    if library != "torchvision":
        pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    return PATIENTS[request.param], zoo.admitted(PATIENTS[request.param])


@pytest.fixture
def patient(admitted):
    return admitted[0]


@pytest.fixture
def case(admitted):
    """The same with a network that the test may change."""
    whole = copy.copy(admitted[1])
    whole.net = copy.deepcopy(whole.net)
    if "score" in whole.given:
        whole.given = whole.given | {"score": whole.nearness}
    return whole


def everything(net):
    """All that a user would find changed: buffers of any kind, parameters, gradients, modes, hooks, covered methods."""
    found = {}
    for name, module in net.named_modules():
        tensors = {**module._buffers, **module._parameters}
        found[name] = (
            {key: None if value is None else (id(value), value.detach().clone()) for key, value in tensors.items()},
            {key: value.requires_grad for key, value in module._parameters.items() if value is not None},
            module.training,
            [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks")],
            [key for key in vars(module) if callable(vars(module)[key]) and key in ("train", "forward")],
            getattr(module, "momentum", None),
        )
    return found


def assert_unchanged(net, before):
    after = everything(net)
    assert list(after) == list(before)
    for name in before:
        assert after[name][1:] == before[name][1:], name
        for key, value in before[name][0].items():
            now = after[name][0][key]
            assert (value is None) == (now is None), (name, key)
            assert value is None or (now[0] == value[0] and same(now[1], value[1])), (name, key)


def same(a, b):
    return torch.equal(a, b) or bool(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))


def is_held(patient, name):
    return name.startswith(patient.stays or "?")


def test_a_sound_one_is_called_healthy_and_nothing_is_left_of_it(case, patient):
    before, random = everything(case.net), torch.get_rng_state()
    found = tn.diagnose(case.net, case.data, **case.given)
    assert_unchanged(case.net, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert found.healthy and found.best is None, str(found)
    assert [step.remedy for step in found.steps] == [Nothing(none_better=found.steps[0].remedy.none_better)]
    assert found.looked.batch_size == zoo.SIZE
    assert found.looked.measured + found.looked.scored == zoo.SIZE * zoo.BATCHES
    assert {name for name in case.names if name.startswith(patient.unreached or "?")} == {*found.looked.unreached}
    assert set(found.looked.frozen) == {name for name in case.names if is_held(patient, name)}
    assert {state.layer for state in found.layers} == {*case.names} - {*found.looked.unreached}
    assert "class" in str(found.looked.kind) if patient.logits is not None else found.looked.kind is None
    if patient.unreached:
        assert not found.verdict.startswith("it is not batch norm") and patient.unreached[0] in found.verdict


def test_a_spoilt_layer_is_named_first_and_repaired(case, patient):
    spoilt = zoo.spoil(case, patient)
    before, given = everything(case.net), case.given | {"score": case.nearness}
    found = tn.diagnose(case.net, case.data, **given)
    assert_unchanged(case.net, before)
    assert not found.healthy
    assert found.layers[0].layer == spoilt, str(found)
    assert found.layers[0].own > 10 * max(1.0, found.layers[0].inherited)
    if is_held(patient, spoilt):
        assert found.cause == "frozen statistics" and found.causes[0].layers == (spoilt,)
        assert isinstance(found.steps[0].remedy, Unfreeze) and spoilt in found.recommendation
        with pytest.raises(NotMeasurable, match="is frozen"):
            tn.repair(case.net, case.data, **given)
        assert_unchanged(case.net, before)
        as_recommended(case.net, case.names)
    else:
        assert any(isinstance(step.remedy, RepairStatistics) for step in found.steps)
        if len(found.layers) > 3:
            assert found.cause == "unexplained" and found.causes[0].layers == (spoilt,)
    state = {key: value.clone() for key, value in case.net.state_dict().items()}

    done = tn.repair(case.net, case.data, **given)
    assert done.chosen, str(done)
    assert done.scores[done.chosen]["score"] > 0.6 * done.scores["as it is"]["score"]
    now = case.net.state_dict()
    changed = {key.rpartition(".")[2] for key in state if not torch.equal(now[key], state[key])}
    assert changed == {"running_mean", "running_var"}
    held = [name for name in case.names if is_held(patient, name) and not is_held(patient, spoilt)]
    assert all(torch.equal(now[f"{name}.running_mean"], state[f"{name}.running_mean"]) for name in held)
    tn.assign(case.net, done.previous)
    assert all(torch.equal(value, state[key]) for key, value in case.net.state_dict().items())


def as_recommended(net, names):
    """torch's batch norm with the same weights, bias and statistics in the place of frozen ones."""
    for name in names:
        frozen = net.get_submodule(name)
        norm = nn.BatchNorm2d(len(frozen.weight))
        norm.load_state_dict(frozen.state_dict() | {"num_batches_tracked": torch.tensor(1)})
        net.set_submodule(name, norm)


@pytest.mark.parametrize("flow", ["joint", "sequential", "eval"])
def test_measured_in_every_flow_it_comes_back_as_it_was(case, patient, flow):
    before = everything(case.net)
    free = [name for name in case.names if not is_held(patient, name)]
    reached = {name for name in case.names if not name.startswith(patient.unreached or "?")}
    how = {key: value for key, value in case.given.items() if key == "forward"}
    if not free and flow != "eval":
        with pytest.raises(NotMeasurable, match="by its class"):
            tn.measure(case.net, case.data, flow=flow, **how)
    else:
        found = tn.measure(case.net, case.data[:3], flow=flow, **how)
        assert {*found} == ({*free} & reached if flow != "eval" else reached)
        assert found.provenance.samples >= 3 * zoo.SIZE
    assert_unchanged(case.net, before)


def test_frozen_layers_stay_as_they_are_in_training(case, patient):
    case.net.train()
    before, names = everything(case.net), tuple(case.names)
    assert tn.freeze(case.net, affine=True) == names
    case.net.train()
    layers = batch_norms(case.net)
    stored = {name: [buffer.clone() for buffer in layer.buffers()] for name, layer in layers.items()}
    inputs = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.setdefault(name, given[0].detach().clone()))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        case.run(case.net, case.data[0])
    for handle in handles:
        handle.remove()
    assert inputs
    for name, x in inputs.items():
        layer = layers[name]
        assert not layer.training
        assert all(map(torch.equal, layer.buffers(), stored[name])), name
        with torch.no_grad():
            expected = layer.train()(x.clone())
            torch.testing.assert_close(layer.eval()(x.clone()), expected, rtol=0, atol=0)
            plain = F.batch_norm(
                x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.1, getattr(layer, "eps", 1e-5)
            )  # fmt: skip
            plain = layer.act(plain) if hasattr(layer, "act") else plain  # timm's hold their activation
            torch.testing.assert_close(expected, plain, rtol=1e-4, atol=1e-5)
        layer.train()
    assert tn.unfreeze(case.net) == names
    assert_unchanged(case.net, before)

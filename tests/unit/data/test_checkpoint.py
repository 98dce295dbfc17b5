"""Checkpoints as people have them: read without running their code, written back with nothing else changed."""

import io
import os
import pickle
import shutil
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from torch.optim.swa_utils import AveragedModel

import truenorm as tn
from truenorm.data.checkpoint import STATE_KEYS, ensure_new, read_checkpoint, write_checkpoint
from truenorm.errors import FileChanged, InvalidInput, UnknownName
from truenorm.nn.batchnorm import LONG_TRAINED


def network():
    return nn.Sequential(OrderedDict(fc=nn.Linear(4, 3), bn=nn.BatchNorm1d(3), out=nn.Linear(3, 2)))


def trained():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(3):
        loss = net(torch.randn(8, 4) + 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, optimizer


def put(path: Path, whole, **how):
    if path.suffix == ".safetensors":
        path.write_bytes(save_safetensors(dict(whole)))
    else:
        torch.save(whole, path, **how)
    return path


def again(data: bytes, suffix=".pt", **how):
    return (
        load_safetensors(data)
        if suffix == ".safetensors"
        else torch.load(io.BytesIO(data), **({"weights_only": True} | how))
    )


def assert_same(found, expected, where="it"):
    """The same types, and the same bits where they are tensors, all the way down."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same(ours, theirs, f"{where}[{number}]")
    else:
        assert found == expected, where
    assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None), where


def test_the_comparison_of_these_tests_can_fail():
    tensor = torch.ones(2)
    for other in (
        {"a": [tensor.double()]},
        {"a": [tensor + 1]},
        {"a": [tensor, 1]},
        OrderedDict(a=[tensor]),
        {"a": (tensor,)},
    ):
        with pytest.raises(AssertionError):
            assert_same(other, {"a": [tensor]})
    changed = network().state_dict()
    changed._metadata["bn"] = {"version": 1}
    with pytest.raises(AssertionError):
        assert_same(changed, OrderedDict(changed))


# Where the weights lie


def test_a_plain_state_dict(tmp_path):
    net, _ = trained()
    file = read_checkpoint(put(tmp_path / "net.pt", net.state_dict()))
    assert (file.key, file.prefix, file.metadata) == ("", "", None)
    fresh = network()
    file.load_into(fresh)
    assert_same(fresh.state_dict(), net.state_dict())


@pytest.mark.parametrize("key", [*STATE_KEYS, "state_dict_ema", "ema.model"])
def test_a_state_dict_beside_other_things(tmp_path, key):
    net, optimizer = trained()
    whole = {"epoch": 3, "optimizer": optimizer.state_dict(), "best": {"a": 1}, key: net.state_dict()}
    file = read_checkpoint(put(tmp_path / "last.pt", whole))
    assert file.key == key
    assert_same(file.state, net.state_dict())
    assert_same(file.whole, whole)


def test_the_usual_key_wins_over_others_and_a_key_that_is_named_over_all(tmp_path):
    nets = {name: trained()[0].state_dict() for name in ("teacher", "ema", "model", "state_dict")}
    path = put(tmp_path / "last.pt", nets | {"deep": {"down": {"here": nets["ema"]}}})
    assert read_checkpoint(path).key == "state_dict"
    for key in nets:
        file = read_checkpoint(path, key=key)
        assert file.key == key
        assert_same(file.state, nets[key])
    file = read_checkpoint(str(path), key="deep.down.here")
    assert file.key == "deep.down.here"
    assert_same(file.state, nets["ema"])


def test_a_key_that_is_not_there_is_refused_and_the_nearest_named(tmp_path):
    path = put(tmp_path / "last.pt", {"model": network().state_dict(), "model_ema": network().state_dict(), "epoch": 3})
    with pytest.raises(
        UnknownName, match=r"unknown key of the checkpoint 'model_eam'; did you mean 'model_ema' or 'model'"
    ):
        read_checkpoint(path, key="model_eam")
    with pytest.raises(UnknownName, match="unknown key of the checkpoint 'model.fc'"):
        read_checkpoint(path, key="model.fc")
    with pytest.raises(InvalidInput, match=r"'epoch' of .*last\.pt is a int, not a state dict of tensors"):
        read_checkpoint(path, key="epoch")


@pytest.mark.parametrize(
    ("whole", "held"),
    [
        ({"epoch": 3, "optimizer": {}}, "epoch, optimizer"),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        ({}, ""),
    ],
    ids=str,
)
def test_a_file_without_a_state_dict_says_what_it_has(tmp_path, whole, held):
    with pytest.raises(
        InvalidInput, match=rf"last\.pt holds no state dict of tensors \(it has: {held}\); name where it lies by --key"
    ):
        read_checkpoint(put(tmp_path / "last.pt", whole))


# What the names begin with


def prefixed(state, prefix):
    return OrderedDict((f"{prefix}{name}", value) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.backbone."])
@pytest.mark.parametrize("counts", [True, False])
def test_what_wrappers_put_before_the_names_is_found(tmp_path, prefix, counts):
    net, _ = trained()
    state = prefixed(net.state_dict(), prefix)
    if not counts:
        state = OrderedDict((name, value) for name, value in state.items() if "num_batches" not in name)
    path = put(tmp_path / "net.pt", {"model": state})
    fresh = network()
    file = read_checkpoint(path).load_into(fresh)
    assert file.prefix == prefix
    expected = {**net.state_dict()} | ({} if counts else {"bn.num_batches_tracked": torch.tensor(0)})
    assert_same(dict(fresh.state_dict()), expected)
    new = torch.full((3,), 7.0)
    written = again(file.with_state({"bn.running_mean": new}).data)["model"]
    assert_same(written, OrderedDict({**state, f"{prefix}bn.running_mean": new}))


class Wrapper(nn.Module):
    """A network whose own names begin as those that wrappers make."""

    def __init__(self):
        super().__init__()
        self.model = network()


def test_names_that_are_the_networks_own_are_no_prefix(tmp_path):
    net = Wrapper()
    path = put(tmp_path / "net.pt", net.state_dict())
    assert read_checkpoint(path).load_into(Wrapper()).prefix == ""
    path = put(tmp_path / "parallel.pt", nn.DataParallel(net).state_dict())
    assert read_checkpoint(path).load_into(Wrapper()).prefix == "module."


def test_names_that_are_the_networks_own_are_no_prefix_in_old_files(tmp_path):
    state = {name: value for name, value in Wrapper().state_dict().items() if "num_batches" not in name}
    assert read_checkpoint(put(tmp_path / "net.pt", state)).load_into(Wrapper()).prefix == ""


def test_an_averaged_model(tmp_path):
    net, _ = trained()
    average = AveragedModel(net)
    average.update_parameters(net)
    path = put(tmp_path / "ema.pt", average.state_dict())
    fresh = network()
    file = read_checkpoint(path).load_into(fresh)
    assert file.prefix == "module."
    assert_same(fresh.state_dict(), net.state_dict())
    written = again(file.with_state(fresh.state_dict()).data)
    assert_same(written, average.state_dict())
    assert int(written["n_averaged"]) == 1


def test_wrapped_models_as_torch_writes_them(tmp_path):
    net, _ = trained()
    for number, wrapped in enumerate((nn.DataParallel(net), torch.compile(net, backend="eager"))):
        path = put(tmp_path / f"{number}.pt", wrapped.state_dict())
        fresh = network()
        assert read_checkpoint(path).load_into(fresh).prefix == ("module.", "_orig_mod.")[number]
        assert_same(dict(fresh.state_dict()), dict(net.state_dict()))


def test_statistics_without_a_count_are_long_trained_for_our_layers(tmp_path):
    net, _ = trained()
    state = {name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    fresh = tn.convert(network())
    read_checkpoint(put(tmp_path / "net.pt", state)).load_into(fresh)
    assert fresh.bn.num_batches_tracked == LONG_TRAINED


@pytest.mark.parametrize("notes", [True, False], ids=["with torch's notes", "without"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_parameters_gets_statistics_that_load_strictly(tmp_path, prefix, notes):
    """torch notes the version of each module in the state dict itself, and asks by it whether counts may be missing."""
    net, _ = trained()
    state = prefixed(net.state_dict(), prefix)
    for name in [name for name in state if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]:
        del state[name]
    read = read_checkpoint(put(tmp_path / "net.pt", state if notes else dict(state)))
    fresh = network()
    with torch.no_grad():
        fresh.bn.running_mean.fill_(7)
        fresh.bn.num_batches_tracked.fill_(7)
    loaded = read.load_into(fresh)
    missing = [f"bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert loaded.lacks == tuple(missing)
    assert (fresh.bn.running_mean == 0).all() and (fresh.bn.running_var == 1).all()
    assert fresh.bn.num_batches_tracked == 0
    given = {name: net.state_dict()[name] for name in missing}
    (tmp_path / "mended.pt").write_bytes(loaded.with_state(given).data)
    written = torch.load(tmp_path / "mended.pt")
    assert set(written) == set(prefixed(net.state_dict(), prefix))
    wrapped = network() if not prefix else torch.nn.ModuleDict({"module": network()})
    wrapped.load_state_dict(written, strict=True)
    assert_same(dict(wrapped.state_dict()), dict(prefixed(net.state_dict(), prefix)))


@pytest.mark.parametrize("lost", ["running_mean", "running_var"])
def test_a_file_that_lacks_some_statistics_does_not_fit(tmp_path, lost):
    state = trained()[0].state_dict()
    del state[f"bn.{lost}"]
    with pytest.raises(InvalidInput, match=rf"does not fit the network: it lacks bn.{lost}; is it of another"):
        read_checkpoint(put(tmp_path / "net.pt", state)).load_into(network())


# What does not fit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("fc.weight"), "it lacks fc.weight; is it of another network, or under another --key"),
        (lambda s: s.update(more=torch.ones(1)), "it has beside more; is it of another network"),
        (
            lambda s: (s.pop("out.bias"), s.update(head=torch.ones(1))),
            "it lacks out.bias and it has beside head; is it of",
        ),
        (
            lambda s: s.update({f"layer{i}": torch.ones(1) for i in range(6)}),
            "it has beside layer0, layer1, layer2, layer3 and 2 more; is it of",
        ),
        (lambda s: s.update({"bn.weight": torch.ones(5)}), r"bn.weight has shape \(5,\) there and \(3,\) here"),
        (
            lambda s: s.update({"bn.running_var": torch.ones(3, 1)}),
            r"bn.running_var has shape \(3, 1\) there and \(3,\)",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, change, said, prefix):
    state = trained()[0].state_dict()
    change(state)
    path = put(tmp_path / "net.pt", prefixed(state, prefix))
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(InvalidInput, match=rf"net\.pt does not fit the network: {said}"):
        read_checkpoint(path).load_into(fresh)
    assert_same(dict(fresh.state_dict()), before)


def test_networks_that_look_at_the_version_of_their_weights(tmp_path, torchvision):
    net = torchvision.models.mnasnet0_5(num_classes=2)
    for prefix, wrapped in (("", net), ("module.", nn.DataParallel(net))):
        path = put(tmp_path / "net.pt", wrapped.state_dict())
        assert read_checkpoint(path).load_into(torchvision.models.mnasnet0_5(num_classes=2)).prefix == prefix


# Files that would run code, and files that are none


def sentence(path, **how):
    with pytest.raises(InvalidInput) as caught:
        read_checkpoint(path, **how)
    said = str(caught.value)
    assert "\n" not in said and str(path) in said
    return said


class Trap:
    """Reading its pickle makes a file, or what `call` makes of `given`."""

    def __init__(self, path, call=shutil.copyfile, given=(__file__,)):
        self.call, self.given = call, (*given, str(path))

    def __reduce__(self):
        return self.call, self.given


@pytest.mark.parametrize(
    "write",
    [
        lambda path, trap: torch.save({"model": network().state_dict(), "args": trap}, path),
        lambda path, trap: torch.save(trap, path, _use_new_zipfile_serialization=False),
        lambda path, trap: torch.save([trap], path),
    ],
    ids=["beside weights", "legacy", "in a list"],
)
def test_code_in_a_file_is_not_run_unless_it_is_trusted(tmp_path, write):
    path, sprung = tmp_path / "net.pt", tmp_path / "sprung"
    write(path, Trap(sprung))
    assert sentence(path) == (
        f"{path} holds more than weights and would run code when read (shutil.copyfile); if you trust where it comes "
        "from, say so: --trust-checkpoint"
    )
    assert not sprung.exists()
    with suppress(InvalidInput):  # there are no weights in some of them
        read_checkpoint(path, trust=True)
    assert sprung.exists(), "else the trap would prove nothing"


def test_a_call_of_the_operating_systems_is_named(tmp_path):
    path, sprung = tmp_path / "net.pt", tmp_path / "sprung"
    torch.save(Trap(sprung, os.mkdir, ()), path)
    assert sentence(path) == (
        f"{path} holds more than weights and would run code when read ({os.mkdir.__module__}.mkdir); if you trust where "
        "it comes from, say so: --trust-checkpoint"
    )
    assert not sprung.exists()


def test_a_bare_pickle_is_not_run(tmp_path):
    path, sprung = tmp_path / "net.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(InvalidInput, match=r"net\.pt"):
        read_checkpoint(path)
    assert not sprung.exists()


def test_a_whole_module_is_read_if_trusted(tmp_path):
    net, _ = trained()
    path = put(tmp_path / "net.pt", net)
    with pytest.raises(InvalidInput, match=r"would run code when read \(torch\.nn\..*--trust-checkpoint"):
        read_checkpoint(path)
    file = read_checkpoint(path, trust=True)
    assert isinstance(file.whole, nn.Sequential) and file.key == ""
    fresh = network()
    file = file.load_into(fresh)
    assert_same(fresh.state_dict(), net.state_dict())
    written = again(file.with_state({"bn.running_var": torch.full((3,), 9.0)}).data, weights_only=False)
    assert type(written) is nn.Sequential
    assert_same(dict(written.state_dict()), {**net.state_dict(), "bn.running_var": torch.full((3,), 9.0)})
    assert torch.equal(file.whole.bn.running_var, net.bn.running_var)


@pytest.mark.parametrize("trust", [False, True])
def test_files_that_are_no_checkpoint_are_refused_in_a_sentence(tmp_path, trust):
    whole = put(tmp_path / "whole.pt", network().state_dict()).read_bytes()
    legacy = put(tmp_path / "legacy.pt", network().state_dict(), _use_new_zipfile_serialization=False).read_bytes()
    broken = tmp_path / "broken.pt"
    for data in (b"", *(whole[:size] for size in (100, len(whole) // 2, len(whole) - 1))):
        broken.write_bytes(data)
        assert "cannot be read as a checkpoint: " in sentence(broken, trust=trust)
    for data in (b"not a checkpoint\n", *(legacy[:size] for size in (10, len(legacy) // 2, len(legacy) - 1))):
        broken.write_bytes(data)
        assert "checkpoint" in sentence(broken, trust=trust)
    assert sentence(tmp_path / "nowhere.pt", trust=trust) == f"there is no checkpoint {tmp_path / 'nowhere.pt'}"
    assert sentence(tmp_path, trust=trust) == f"there is no checkpoint {tmp_path}"
    for data in (b"", b"garbage " * 20, save_safetensors(network().state_dict())[:-5]):
        (tmp_path / "broken.safetensors").write_bytes(data)
        assert "is not a safetensors file: " in sentence(tmp_path / "broken.safetensors", trust=trust)


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><title>404</title>",
        b'{"weights": []}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
    ],
    ids=["web page", "json", "git-lfs pointer"],
)
def test_nobody_is_told_to_trust_what_is_no_checkpoint_at_all(tmp_path, data):
    path = tmp_path / "net.pt"
    path.write_bytes(data)
    assert sentence(path) == f"{path} is not a checkpoint: neither of torch's nor of safetensors' form"


# Writing back


def everything():
    """A checkpoint as a training script writes it."""
    net, optimizer = trained()
    return {
        "epoch": 3,
        "best": 0.25,
        "model": net.state_dict(),
        "model_ema": trained()[0].state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "history": [{"loss": 1.5, "where": (1, 2)}, None, "text"],
    }


@pytest.mark.parametrize("key", [None, "model_ema"])
def test_everything_else_is_written_as_it_was(tmp_path, key):
    whole = everything()
    file = read_checkpoint(put(tmp_path / "last.pt", whole), key=key)
    net = network()
    file = file.load_into(net)
    tn.assign(net, tn.measure(net, [torch.randn(8, 4) + 5 for _ in range(3)]))
    written = again(file.with_state(net.state_dict()).data)
    changed = written[file.key]
    assert {name for name in changed if not torch.equal(changed[name], whole[file.key][name])} == {
        "bn.running_mean",
        "bn.running_var",
    }
    assert torch.equal(changed["bn.running_mean"], net.bn.running_mean)
    assert type(changed) is OrderedDict and changed._metadata == whole["model"]._metadata
    for name in ("bn.running_mean", "bn.running_var"):
        changed[name] = whole[file.key][name]
    assert_same(written, whole)
    assert_same(file.whole, whole)  # what was read is as it was
    assert_same(again(file.with_state({}).data), whole)
    optimizer = torch.optim.Adam(net.parameters())
    optimizer.load_state_dict(written["optimizer"])


def test_a_state_dict_deep_down_is_written_where_it_was(tmp_path):
    whole = {"a": {"b": network().state_dict(), "c": 1}, "d": [2]}
    file = read_checkpoint(put(tmp_path / "last.pt", whole), key="a.b")
    new = torch.full((3,), 3.0)
    written = again(file.with_state({"bn.running_mean": new}).data)
    whole["a"]["b"]["bn.running_mean"] = new
    assert_same(written, whole)


def test_a_state_dict_under_a_key_with_a_dot_is_written_where_it_was(tmp_path):
    whole = {"ema.model": network().state_dict(), "epoch": 1}
    file = read_checkpoint(put(tmp_path / "last.pt", whole))
    assert_same(again(file.with_state({}).data), whole)


def test_what_lies_around_the_state_dict_keeps_its_type(tmp_path):
    whole = OrderedDict(model=network().state_dict(), epoch=1)
    file = read_checkpoint(put(tmp_path / "last.pt", whole))
    assert_same(again(file.with_state({}).data), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_buffers_keep_their_type(tmp_path, dtype, suffix):
    state = trained()[0].to(dtype).state_dict()
    path = tmp_path / f"net.{suffix}"
    if suffix == "pt":
        put(path, state)
    else:
        path.write_bytes(save_safetensors(state, metadata={"format": "pt"}))
    net = network()
    file = read_checkpoint(path).load_into(net)
    assert net.bn.running_mean.dtype == torch.float32
    new = torch.tensor([0.1, 0.2, 0.3])
    data = file.with_state({"bn.running_mean": new, "bn.num_batches_tracked": torch.tensor(5)}).data
    written = again(data) if suffix == "pt" else load_safetensors(data)
    expected = {**state, "bn.running_mean": new.to(dtype), "bn.num_batches_tracked": torch.tensor(5)}
    for name, value in expected.items():
        assert_same(written[name], value, name)
    assert written.keys() == expected.keys()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(torch.float16, 1e6), (torch.float16, 1e-8), (torch.float16, 1e-7), (torch.int32, 0.52), (torch.int64, 1000.4),
     (torch.uint8, -3.0), (torch.bool, 0.3)],
    ids=str,
)  # fmt: skip
def test_what_the_files_type_cannot_hold_is_written_as_float32(tmp_path, kind, value, suffix):
    state = network().state_dict()
    state["bn.running_var"] = state["bn.running_var"].to(kind)
    file = read_checkpoint(put(tmp_path / f"net{suffix}", state)).load_into(network())
    rewritten = file.with_state({"bn.running_var": torch.full((3,), value), "bn.running_mean": torch.ones(3)})
    assert rewritten.widened == {"bn.running_var": kind}
    written = again(rewritten.data, suffix=suffix)
    assert torch.equal(written["bn.running_var"], torch.full((3,), value))
    assert written["bn.running_mean"].dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "value"),
    [(torch.float16, 0.3), (torch.bfloat16, 1e-8), (torch.bfloat16, 1e6), (torch.int32, 7.0)],
    ids=str,
)
def test_what_the_files_type_can_hold_keeps_it(tmp_path, kind, value):
    state = network().state_dict()
    state["bn.running_var"] = state["bn.running_var"].to(kind)
    file = read_checkpoint(put(tmp_path / "net.pt", state)).load_into(network())
    rewritten = file.with_state({"bn.running_var": torch.full((3,), value)})
    assert rewritten.widened == {}
    assert again(rewritten.data)["bn.running_var"].dtype == kind


def test_a_whole_module_gets_a_float32_buffer_too(tmp_path):
    whole = network()
    whole.bn.running_var = whole.bn.running_var.to(torch.int32)
    file = read_checkpoint(put(tmp_path / "net.pt", whole), trust=True).load_into(network())
    written = again(file.with_state({"bn.running_var": torch.full((3,), 0.5)}).data, weights_only=False)
    assert torch.equal(written.bn.running_var, torch.full((3,), 0.5))
    assert whole.bn.running_var.dtype == torch.int32


def test_complex_statistics_are_refused(tmp_path):
    state = network().state_dict()
    state["bn.running_mean"] = state["bn.running_mean"] + 1j
    file = read_checkpoint(put(tmp_path / "net.pt", state))
    with pytest.raises(InvalidInput, match=r"bn\.running_mean is torch.complex64 there and torch.float32 here"):
        file.load_into(network())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_read_stays_what_it_was(tmp_path, suffix):
    """A file may be mapped; what is written to it later must not show."""
    path = put(tmp_path / f"net{suffix}", network().state_dict())
    file = read_checkpoint(path)
    before = {name: value.clone() for name, value in file.state.items()}
    with path.open("r+b") as opened:
        opened.write(bytes(len(path.read_bytes())))
    for name, value in file.state.items():
        assert torch.equal(value, before[name])


def rewrite(path):
    path.write_bytes(path.read_bytes() + b" ")


def replace(path):
    (path.parent / "new").write_bytes(path.read_bytes())
    (path.parent / "new").rename(path)


@pytest.mark.parametrize("change", [rewrite, replace, Path.unlink])
@pytest.mark.parametrize("fails", [False, True])
def test_code_that_changes_the_file_is_named(tmp_path, change, fails):
    path = put(tmp_path / "net.pt", network().state_dict())
    file = read_checkpoint(path)
    with file.unchanged_by("net.py:make"):
        path.read_bytes()

    def run():
        with file.unchanged_by("net.py:make"):
            change(path)
            if fails:
                raise ValueError("another error that must not hide this one")

    with pytest.raises(FileChanged, match=r"net\.pt was (written to|deleted) while net\.py:make ran"):
        run()


def test_a_file_without_counts_gets_none(tmp_path):
    state = OrderedDict((name, value) for name, value in trained()[0].state_dict().items() if "num_batches" not in name)
    net = network()
    file = read_checkpoint(put(tmp_path / "net.pt", state)).load_into(net)
    assert_same(again(file.with_state(net.state_dict()).data), state)


@pytest.mark.parametrize("metadata", [{"format": "pt", "author": "somebody"}, None])
def test_safetensors_come_back_with_their_metadata(tmp_path, metadata):
    net, _ = trained()
    path = tmp_path / "net.safetensors"
    state = prefixed(net.state_dict(), "model.")
    path.write_bytes(save_safetensors(state, metadata=metadata))
    fresh = network()
    file = read_checkpoint(path).load_into(fresh)
    assert_same(dict(fresh.state_dict()), dict(net.state_dict()))
    new = torch.stack([torch.ones(3), torch.zeros(3)], 1)[:, 0]  # not contiguous
    write_checkpoint(tmp_path / "new.safetensors", file.with_state({"bn.running_mean": new}).data, source=path)
    with safe_open(tmp_path / "new.safetensors", framework="pt") as written:
        assert (written.metadata() or None) == metadata
        found = {name: written.get_tensor(name) for name in written.keys()}  # noqa: SIM118  # not a dict
    assert_same(dict(sorted(found.items())), dict(sorted({**state, "model.bn.running_mean": new}.items())))


def test_what_is_written_does_not_change_with_the_network(tmp_path):
    net, _ = trained()
    file = read_checkpoint(put(tmp_path / "net.pt", net.state_dict())).load_into(net)
    before = {name: value.clone() for name, value in file.state.items()}
    file.with_state({"bn.running_mean": torch.zeros(3)})
    net.train()(torch.randn(8, 4))
    assert_same(dict(file.state), before)


def test_nothing_is_written_over(tmp_path):
    path = put(tmp_path / "net.pt", network().state_dict())
    other, link = tmp_path / "other.pt", tmp_path / "link.pt"
    other.write_bytes(b"precious")
    link.symlink_to(path)
    before = path.read_bytes()
    for target, what in (
        (path, "the checkpoint itself"),
        (link, "the checkpoint itself"),
        (other, "a file that exists"),
    ):
        with pytest.raises(InvalidInput) as caught:
            write_checkpoint(target, b"new", source=path)
        assert str(caught.value) == f"{target} is {what} and is not written over; choose another name"
        with pytest.raises(InvalidInput, match="is not written over"):
            ensure_new(target, source=path)
    with pytest.raises(InvalidInput, match="is a file that exists"):
        ensure_new(other, source=tmp_path / "gone.pt")
    ensure_new(tmp_path / "free.pt", source=path)
    assert not (tmp_path / "free.pt").exists()
    assert path.read_bytes() == before and other.read_bytes() == b"precious"
    write_checkpoint(str(tmp_path / "new" / "net.pt"), b"new", source=path)
    assert (tmp_path / "new" / "net.pt").read_bytes() == b"new"


def test_a_best_score_kept_as_a_scalar_of_numpy_needs_no_trust(tmp_path):
    best = {"best": np.float64(0.5), "steps": np.int64(3), "loss": np.float32(1)}
    torch.save({"model": nn.Linear(1, 1).state_dict(), **best}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.key == "model" and {name: found.whole[name] for name in best} == best

"""`truenorm repair`: a new checkpoint or none, the old one as it was, whatever happens in between."""

import os
import runpy
import signal
import subprocess
import sys

import pytest
import torch
from inline_snapshot import snapshot

import truenorm as tn
from truenorm import files

NET = """
import torch
from torch import nn

def make(momentum=0.001):
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(),
        nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6, momentum=momentum), nn.ReLU(), nn.Linear(6, 3),
    )

class Moving(nn.Module):
    # Buffers of Keras's names, and deviations stored.

    def __init__(self, channels, momentum):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("moving_mean", torch.zeros(1, channels))
        self.register_buffer("moving_std", torch.ones(1, channels))

    def forward(self, x):
        mean, std = self.moving_mean, self.moving_std
        if self.training:
            mean, std = x.mean(0, keepdim=True), x.std(0, keepdim=True)
            with torch.no_grad():
                self.moving_mean.lerp_(mean, self.momentum)
                self.moving_std.lerp_(std, self.momentum)
        return (x - mean) / (std + 1e-5)

def moving(momentum=0.001):
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), Moving(8, momentum), nn.ReLU(),
        nn.Linear(8, 6, bias=False), Moving(6, momentum), nn.ReLU(), nn.Linear(6, 3),
    )

def wider():
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Linear(9, 3))
"""

DATA = """
import random
import torch
from torch.nn import functional as F

def batches(seed, num=32):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        y = torch.randint(0, 3, (32,), generator=generator)
        yield torch.randn(32, 4, generator=generator) + 3 + 4 * F.one_hot(y, 4), y

def train():
    return list(batches(1, 64))

def val():
    return list(batches(2))

def noise():
    return [(torch.randn_like(x), y) for x, y in batches(1)]

def no_labels():
    return [x for x, _ in batches(1)]

def empty():
    return []

def one_sample():
    return [(x[:1], y[:1]) for x, y in batches(1, 1)]

def fails():
    raise FileNotFoundError("images.zip")

def stopped():
    yield from batches(2, 3)
    raise KeyboardInterrupt

def waits():
    # Says so before a batch that is drawn by chance, and goes on when it is told to.
    moment = random.randrange(64)
    for number, batch in enumerate(batches(1, 64)):
        if number == moment:
            print("reading", flush=True)
            input()
        yield batch

def goes_on():
    yield from batches(1, 64)
    print("reading", flush=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a training script leaves behind: weights whose averages have hardly moved, and an optimizer."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "net.py").write_text(NET)
    (folder / "data.py").write_text(DATA)
    torch.manual_seed(0)
    net, batches = runpy.run_path(folder / "net.py")["make"](), runpy.run_path(folder / "data.py")["train"]()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for x, y in batches:
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = {"epoch": 3, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "arguments": {"lr": 0.02}}
    torch.save(whole, folder / "last.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def project(trained, tmp_path):
    """A folder with the network, the data and the checkpoint."""
    for name, content in trained.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def repair(truenorm, project):
    """Run it; no file may change, and none appear but the one that was asked for."""

    def run(*arguments, model="net.py:make", checkpoint="last.pt", data="data.py:train", out="out.pt"):
        before = contents(project)
        given = ["--model", model, "--checkpoint", checkpoint, "--data", data, "--out", out]
        ended = truenorm("repair", *given, *arguments)
        after = contents(project)
        assert {name: content for name, content in after.items() if name in before} == before
        assert set(after) - set(before) <= {out}
        return ended

    return run


@pytest.fixture
def in_python(project):
    """What Python does with the same weights and data: the repair, and the network that it was done to."""

    def run(checkpoint="last.pt", data="train", held_out=None, **how):
        batches = runpy.run_path(project / "data.py")
        network = runpy.run_path(project / "net.py")["make"]()
        network.load_state_dict(torch.load(project / checkpoint)["model"])
        held_out = None if held_out is None else batches[held_out]()
        return tn.repair(network, batches[data](), held_out=held_out, **how), network

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def same(found, expected):
    """Two checkpoints' contents, to the bit, whatever they are nested in."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    else:
        assert found == expected


def is_statistic(name):
    return name.endswith(("running_mean", "running_var"))


def test_the_round_trip(repair, in_python, truenorm):
    """Exit code 3, a repair, exit code 0."""
    look = ("diagnose", "--model", "net.py:make", "--data", "data.py:val", "--checkpoint")
    assert truenorm(*look, "last.pt").code == 3
    ended, (done, _) = repair(), in_python()
    assert (ended.code, ended.err) == (0, "")
    assert done.chosen and ended.text == f"{done}\nwritten: out.pt\n"
    assert truenorm(*look, "out.pt").code == 0


def test_only_the_statistics_are_others(repair, project):
    repair()
    before, after = torch.load(project / "last.pt"), torch.load(project / "out.pt")
    statistics = {name for name in before["model"] if is_statistic(name)}
    assert len(statistics) == 4
    for name in statistics:
        assert not torch.equal(after["model"][name], before["model"][name])
        assert after["model"][name].dtype == before["model"][name].dtype
    for whole in (before, after):
        for name in statistics:
            whole["model"][name] = 0
    same(after, before)


def test_statistics_of_other_names_are_written(repair, truenorm, project):
    """Those of a layer that is not torch's, in the form in which it stores them."""
    network = runpy.run_path(project / "net.py")["moving"]()
    for name, value in torch.load(project / "last.pt")["model"].items():
        if name in network.state_dict():
            network.state_dict()[name].copy_(value)
    torch.save(network.state_dict(), project / "moving.pt")
    assert repair(model="net.py:moving", checkpoint="moving.pt").code == 0
    before, after = torch.load(project / "moving.pt"), torch.load(project / "out.pt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.moving_{what}" for layer in (1, 4) for what in ("mean", "std")}
    batches = runpy.run_path(project / "data.py")["train"]()
    arriving = torch.cat([network[0](x) for x, _ in batches]).detach()
    torch.testing.assert_close(after["1.moving_std"][0], arriving.std(0), rtol=0.02, atol=0)
    look = ("diagnose", "--model", "net.py:moving", "--data", "data.py:val", "--checkpoint")
    assert (truenorm(*look, "moving.pt").code, truenorm(*look, "out.pt").code) == (3, 0)


def test_these_comparisons_see_a_difference():
    """Planted: a bit, a type, an order, a value."""
    one = {"a": torch.zeros(2), "b": [1, (2,)]}
    for other in (
        {"a": torch.tensor([0, 1e-45]), "b": [1, (2,)]},
        {"a": torch.zeros(2).double(), "b": [1, (2,)]},
        {"b": [1, (2,)], "a": torch.zeros(2)},
        {"a": torch.zeros(2), "b": [1, (3,)]},
    ):
        with pytest.raises(AssertionError):
            same(other, one)


def test_what_is_written_is_what_python_assigns(repair, in_python, project):
    repair("--held-out", "data.py:val")
    done, network = in_python(held_out="val")
    assert done.chosen
    same(dict(torch.load(project / "out.pt")["model"]), dict(network.state_dict()))


def test_the_form_that_came_is_the_form_that_is_written(repair, project):
    from safetensors import safe_open
    from safetensors.torch import save_file

    state = torch.load(project / "last.pt")["model"]
    save_file(state, project / "last.safetensors", metadata={"format": "pt", "epoch": "3"})
    torch.save({f"module.{name}": value for name, value in state.items()}, project / "parallel.pt")
    torch.save({"teacher": {"ema": state}, "model": {"0.weight": torch.zeros(1)}}, project / "nested.pt")

    assert repair(checkpoint="last.safetensors", out="out.safetensors").code == 0
    with safe_open(project / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "epoch": "3"}
        assert set(file.keys()) == set(state)
        written = file.get_tensor("1.running_mean")
    assert not torch.equal(written, state["1.running_mean"])

    assert repair(checkpoint="parallel.pt", out="parallel-out.pt").code == 0
    found = torch.load(project / "parallel-out.pt")
    assert list(found) == [f"module.{name}" for name in state]
    assert torch.equal(found["module.1.running_mean"], written)

    assert repair("--key", "teacher.ema", checkpoint="nested.pt", out="nested-out.pt").code == 0
    found = torch.load(project / "nested-out.pt")
    assert torch.equal(found["teacher"]["ema"]["1.running_mean"], written)
    assert torch.equal(found["model"]["0.weight"], torch.zeros(1))


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.float16], ids=str)
def test_what_the_checkpoints_type_cannot_hold_is_written_as_float32(truenorm, project, kind):
    """The written file holds the statistics that scored, not what is left of them in another type."""
    whole = torch.load(project / "last.pt")
    for name, value in whole["model"].items():
        if is_statistic(name):
            whole["model"][name] = (value * 1e-6 if kind == torch.float16 and "var" in name else value).to(kind)
    torch.save(whole, project / "odd.pt")
    # Inputs a thousandth as large, so that variances are too small for half precision.
    scale = 1 / 3000 if kind == torch.float16 else 1.0
    (project / "scaled.py").write_text(
        f"from data import train as usual\ndef train():\n    return [({scale} * x, y) for x, y in usual()]\n"
    )
    ended = truenorm(
        "repair", "--model", "net.py:make", "--checkpoint", "odd.pt", "--data", "scaled.py:train", "--out", "out.pt"
    )
    assert ended.code == 0, ended.out + ended.err
    written = torch.load(project / "out.pt")["model"]
    widened = [name for name, value in written.items() if value.dtype != whole["model"][name].dtype]
    assert widened and all(written[name].dtype == torch.float32 for name in widened)
    network = runpy.run_path(project / "net.py")["make"]()
    network.load_state_dict(whole["model"])
    batches = [(scale * x, y) for x, y in runpy.run_path(str(project / "data.py"))["train"]()]
    done = tn.repair(network, batches)
    assert done.chosen is not None
    notes = [
        f"note: {name} is float32 there: {str(kind).removeprefix('torch.')}, its type so far, cannot hold it"
        for name in widened
    ]
    assert ended.text.splitlines() == [*str(done).splitlines(), "written: out.pt", *notes]
    for name, value in network.state_dict().items():
        if is_statistic(name):
            torch.testing.assert_close(written[name].float(), value, rtol=2e-3, atol=0)


def test_into_a_folder_that_is_not_there_yet(repair, project):
    assert repair(out="mended/deep/out.pt").code == 0
    assert [path.name for path in (project / "mended" / "deep").iterdir()] == ["out.pt"]


def test_nothing_is_written_where_nothing_is_gained(repair, in_python, project):
    assert repair().code == 0
    (project / "mended.pt").write_bytes((project / "out.pt").read_bytes())
    ended, (done, _) = repair(checkpoint="mended.pt", out="again.pt"), in_python("mended.pt")
    assert (ended.code, ended.err) == (3, "")
    assert done.chosen is None and ended.text == f"{done}\nagain.pt was not written: mended.pt is as good\n"
    assert not (project / "again.pt").exists()


def test_it_refuses_to_make_worse(repair, project):
    assert repair().code == 0
    ended = repair("--held-out", "data.py:val", checkpoint="out.pt", data="data.py:noise", out="worse.pt")
    assert ended.code == 3
    assert not (project / "worse.pt").exists()


def test_limits(repair, in_python):
    done, _ = in_python(limit=128)
    assert (done.measured, done.batch_size, done.scored, done.held_out) == (96, 32, 32, "others")
    assert repair("--limit", "128").text == f"{done}\nwritten: out.pt\n"
    done, _ = in_python(held_out="val", tolerance=0.5)
    assert done.measured == 256  # it is looked at every eighth batch
    ended = repair("--tolerance", "0.5", "--held-out", "data.py:val", out="rough.pt")
    assert ended.text == f"{done}\nwritten: rough.pt\n"


# Bad input


@pytest.fixture
def refused(repair, project):
    def run(*arguments, **how):
        ended = repair(*arguments, **how)
        assert not (project / "out.pt").exists() or how.get("out")
        return ended.code, ended.sentence

    return run


def test_outputs_that_exist(refused, project):
    (project / "there.pt").write_text("mine")
    assert refused(out="there.pt") == snapshot(
        (2, "truenorm: there.pt is a file that exists and is not written over; choose another name")
    )
    assert refused(out="last.pt") == snapshot(
        (2, "truenorm: last.pt is the checkpoint itself and is not written over; choose another name")
    )
    os.link(project / "last.pt", project / "link.pt")
    os.symlink("last.pt", project / "symlink.pt")
    assert refused(out="link.pt") == snapshot(
        (2, "truenorm: link.pt is the checkpoint itself and is not written over; choose another name")
    )
    assert refused(out="symlink.pt") == snapshot(
        (2, "truenorm: symlink.pt is the checkpoint itself and is not written over; choose another name")
    )


def test_what_exists_is_refused_before_anything_is_read(refused, project):
    (project / "there.pt").write_text("mine")
    assert refused(out="there.pt", model="nets.py:make", checkpoint="none.pt") == snapshot(
        (2, "truenorm: there.pt is a file that exists and is not written over; choose another name")
    )


def test_an_output_that_cannot_be_written(repair, project, monkeypatch):
    (project / "a_file").write_text("")
    ended = repair(out="a_file/out.pt")
    assert ended.code == 2
    assert ended.err == snapshot("truenorm: cannot write to a_file: File exists; choose another folder\n")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    ended = repair()
    assert ended.code == 2
    assert ended.err == snapshot("truenorm: cannot write out.pt: No space left on device; choose another folder\n")
    assert not (project / "out.pt").exists()


def test_what_was_not_written_is_not_said_to_be_done(repair, project):
    (project / "a_file").write_text("")
    assert repair(out="a_file/out.pt").out == ""


def test_checkpoints_and_networks_that_do_not_fit(refused, project):
    assert refused(checkpoint="first.pt") == snapshot((2, "truenorm: there is no checkpoint first.pt"))
    assert refused(model="net.py:wider") == snapshot(
        (
            2,
            "truenorm: last.pt does not fit the network: it lacks 0.bias, 2.bias, 2.weight and it has beside 3.weight, 4.bias, 4.num_batches_tracked, 4.running_mean and 4 more; is it of another network, or under another --key?",
        )
    )
    assert refused(checkpoint="net.py") == snapshot(
        (2, "truenorm: net.py is not a checkpoint: neither of torch's nor of safetensors' form")
    )


def test_data_that_are_none(refused):
    assert refused(data="data.py:empty") == snapshot(
        (2, "truenorm: data (list) gave no batches; is it empty, used up, or shorter than one batch?")
    )
    assert refused(data="data.py:one_sample") == snapshot(
        (
            2,
            "truenorm: layer '1' got a batch of one value per channel, shape (1, 8): it has no variance to train on; use a larger batch, or drop_last for the last one",
        )
    )
    assert refused(data="data.py:no_labels") == snapshot(
        (
            2,
            "truenorm: nothing says whether other statistics do better: the batches hold no labels that fit the model's output; pass --score FILE.py:FUNCTION",
        )
    )
    assert refused(data="data.py:fails") == snapshot(
        (2, "truenorm: data.py:fails failed: FileNotFoundError: images.zip")
    )
    assert refused(data="digits") == snapshot(
        (
            2,
            "truenorm: the network fails on images of shape (64, 1, 8, 8): RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x8 and 4x8)",
        )
    )
    assert refused("--held-out", "data.py:empty") == snapshot(
        (2, "truenorm: data (list) gave no batches; is it empty, used up, or shorter than one batch?")
    )
    assert refused("--held-out", "data.py:vla") == snapshot((2, "truenorm: data.py has no 'vla'; did you mean 'val'?"))
    assert refused("--limit", "0") == snapshot((2, "truenorm: limit is 0; expected one sample or more"))


@pytest.mark.parametrize("missing", ["--model", "--checkpoint", "--data", "--out"])
def test_what_is_needed(truenorm, missing):
    given = {"--model": "net.py:make", "--checkpoint": "last.pt", "--data": "data.py:train", "--out": "out.pt"}
    ended = truenorm("repair", *(word for name, value in given.items() if name != missing for word in (name, value)))
    assert (ended.code, ended.boxed) == (2, f'Command "repair" parameter {missing} requires an argument.')


# Stopped


def test_interrupted(repair):
    ended = repair(data="data.py:stopped")
    assert ended.code == 130
    assert ended.sentence == "truenorm: interrupted; nothing was changed"


@pytest.mark.parametrize(
    ("kind", "loader"),
    [
        (signal.SIGINT, "waits"),
        (signal.SIGTERM, "waits"),
        (signal.SIGTERM, "goes_on"),
        (signal.SIGKILL, "waits"),
        (signal.SIGKILL, "goes_on"),
    ],
)
def test_ended_at_any_moment(project, kind, loader):
    """While it reads, or in whatever follows: the checkpoint is as it was, and there is no part of another."""
    before = contents(project)
    arguments = ["--model", "net.py:make", "--checkpoint", "last.pt", "--data", f"data.py:{loader}", "--out", "out.pt"]
    command = [sys.executable, "-c", "from truenorm.cli import main; main()", "repair", *arguments]
    with subprocess.Popen(
        command,
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as running:
        assert running.stdout.readline() == "reading\n", running.stderr.read()
        running.send_signal(kind)
        _, err = running.communicate(timeout=60)
    after = contents(project)
    assert {name: after[name] for name in before} == before
    if loader == "waits":
        assert "out.pt" not in after
        assert running.returncode == (130 if kind == signal.SIGINT else -kind)
        if kind == signal.SIGINT:
            assert err == "truenorm: interrupted; nothing was changed\n"
    if "out.pt" in after:
        written = torch.load(project / "out.pt")
        assert list(written["model"]) == list(torch.load(project / "last.pt")["model"])
    elif running.returncode == 0:
        pytest.fail("it ran through and wrote nothing")


def test_help(truenorm, golden):
    ended = truenorm("repair", "--help")
    assert (ended.code, ended.err) == (0, "")
    golden("help-repair.txt", ended.out)

"""`truenorm diagnose`: exit codes, a line to run, figures in files; whatever is wrong is one sentence."""

import re
import runpy
import shlex
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from inline_snapshot import snapshot
from rich.console import Console

import truenorm as tn
from truenorm.cli import looking, terminal
from truenorm.cli.terminal import WIDE
from truenorm.doctor import diagnose as in_steps
from truenorm.doctor import size
from truenorm.lab.report.diagnosis import diagnosis_conclusion, read_diagnosis
from truenorm.record import Record
from truenorm.show import plain

NET = """
import torch
from torch import nn

def make(momentum=0.001):
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(),
        nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6, momentum=momentum), nn.ReLU(), nn.Linear(6, 3),
    )

def usual():
    return make(0.1)

def fails():
    raise RuntimeError("no weights\\nhere")

def number():
    return 7

def wider():
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Linear(9, 3))
"""

DATA = """
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

def stream():
    return batches(2)

def fails():
    raise FileNotFoundError("images.zip")

def fails_later():
    yield from batches(2, 3)
    raise OSError("images.zip ends here")

def empty():
    return []

def no_labels():
    return [x for x, _ in batches(2)]

def few():
    return [(x[:3], y[:3]) for x, y in batches(2, 2)]

def audio():
    return [{"audio": x} for x, _ in batches(2)]

def odd():
    return [(x, y + 200) for x, y in batches(2)]

def larger(output, batch):
    return -output.square().mean(1)

def wide():
    return [(torch.zeros(8, 5), torch.zeros(8).long())]

def stopped():
    yield from batches(2, 3)
    raise KeyboardInterrupt
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
    torch.save({"epoch": 3, "model": net.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def diagnose(truenorm, trained, tmp_path):
    """Run it in a folder with the project; nothing but the files that were asked for may be written."""
    for name, content in trained.items():
        (tmp_path / name).write_bytes(content)

    def run(*arguments, model="net.py:make", checkpoint="last.pt", data="data.py:val"):
        given = ["--model", model]
        given += ["--checkpoint", checkpoint] if checkpoint else []
        given += ["--data", data] if data else []
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        ended = truenorm("diagnose", *given, *arguments)
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert {path: content for path, content in after.items() if path in before} == before
        written = {path.name for path in after if path not in before}
        assert written <= {name for name in arguments if not name.startswith("-")}
        return ended

    return run


@pytest.fixture
def diagnosed(diagnose, tmp_path):
    """Run it: the exit code, and the diagnosis as its record has it; the steps are the last lines that are printed."""

    def run(*arguments, **how):
        ended = diagnose(*arguments, "--json", "found.json", **how)
        # The only line beside the answer, and none where nothing is run.
        assert (re.fullmatch(r"truenorm: looking at [\d,]+ samples\n", ended.err) is None) == (not ended.err)
        assert bool(ended.err) == (how.get("data", True) is not None)
        diagnosis = read_diagnosis(Record.load(tmp_path / "found.json"))
        (tmp_path / "found.json").unlink()
        steps = len(diagnosis.diagnosis.steps)
        assert ended.out.splitlines()[-steps:] == diagnosis_conclusion(diagnosis).splitlines()[-steps:]
        return ended.code, diagnosis.record.trials["diagnosis"]

    return run


def sentences(found):
    """What to do, by when."""
    return {step["when"]: step["sentence"] for step in found["steps"]}


def to_run(found, **named):
    """The arguments of the command that is to be run now, with what only the user knows filled in."""
    name, *words = shlex.split(sentences(found)["do"])
    assert name == "truenorm"
    return [named.get(word, word) for word in words]


LOOKING = "truenorm: looking at 1,024 samples\n"
REPAIRED = ("repair", "--model", "net.py:make", "--checkpoint", "last.pt", "--data", "data.py:train", "--out", "ok.pt")


def test_what_is_wrong_is_recorded_and_is_exit_code_3(diagnosed):
    code, found = diagnosed()
    assert (code, found["healthy"], found["outcome"]["kind"]) == (3, False, "repairable")
    first = found["findings"][0]
    assert first["cause"] == "initial values"
    assert first["evidence"]["momentum"] == pytest.approx(0.001) and first["evidence"]["batches"] == 64
    assert first["evidence"]["left"] == pytest.approx((1 - 0.001) ** 64, abs=0.005)
    assert sentences(found) == snapshot(
        {"do": "truenorm repair --model net.py:make --checkpoint last.pt --data TRAINING_DATA --out last-mended.pt"}
    )


def test_what_is_printed_is_what_python_finds(diagnose):
    net, data = runpy.run_path("net.py")["make"](), runpy.run_path("data.py")["val"]()
    net.load_state_dict(torch.load("last.pt")["model"])
    found = tn.diagnose(net, data)
    ended = diagnose()
    assert ended.err == LOOKING
    assert ended.text == (
        f"{plain(replace(found, steps=()), WIDE)}\n"
        "do       truenorm repair --model net.py:make --checkpoint last.pt --data TRAINING_DATA --out last-mended.pt\n"
    )


def test_the_line_to_run_runs_as_it_stands(diagnosed, truenorm, tmp_path):
    """But for the data, which nobody but the user knows."""
    ended = truenorm(*to_run(diagnosed()[1], TRAINING_DATA="data.py:train"))
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "last-mended.pt").exists()
    code, found = diagnosed(checkpoint="last-mended.pt")
    assert (code, found["healthy"], found["outcome"]["kind"] in ("sound", "harmless")) == (0, True, True)


def test_names_with_spaces_and_signs_are_quoted(diagnosed, truenorm, tmp_path):
    (tmp_path / "my net & <1>.py").write_text(NET)
    (tmp_path / "it's $last.pt").write_bytes((tmp_path / "last.pt").read_bytes())
    _, found = diagnosed("--key", "model", model="my net & <1>.py:make", checkpoint="it's $last.pt")
    words = to_run(found, TRAINING_DATA="data.py:train")
    assert words[1:7] == ["--model", "my net & <1>.py:make", "--checkpoint", "it's $last.pt", "--key", "model"]
    assert truenorm(*words).code == 0
    assert (tmp_path / "it's $last-mended.pt").exists()


def test_a_long_line_to_run_is_one_line(diagnosed, tmp_path):
    deep = tmp_path / "/".join(["a_folder_of_experiments"] * 5)
    deep.mkdir(parents=True)
    (deep / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes())
    _, found = diagnosed(checkpoint=str(deep / "last.pt"))  # which compares the line with what is printed
    assert to_run(found)[-2:] == ["--out", str(deep / "last-mended.pt")]


def test_the_line_to_run_without_a_checkpoint(diagnosed):
    assert sentences(diagnosed(checkpoint=None, data=None)[1]) == snapshot(
        {"do": "truenorm diagnose --model net.py:make --checkpoint CHECKPOINT --data HELD_OUT_DATA"}
    )


def test_what_reading_needed_the_line_to_run_needs_too(diagnosed):
    assert "--trust-checkpoint" in to_run(diagnosed("--trust-checkpoint", "--batch-size", "32")[1])


def test_a_data_set_by_name(diagnosed, tmp_path):
    """A network that was never trained: it is said, and nobody is told that other statistics would help.

    Its statistics are as useful as any, as those of a network that were folded on purpose: no alarm.
    """
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))\n"
    )
    code, found = diagnosed("--limit", "200", model="flat.py:make", checkpoint=None, data="digits")
    assert (code, found["outcome"]["kind"], found["cause"]) == (0, "harmless", None)
    assert found["findings"][-1]["cause"] == "folded statistics"
    assert found["findings"][-1]["sentence"] == snapshot(
        "layer 2 holds mean 0 and variance 1, and no other statistics score better: so it is where statistics were folded into γ and β, and in a network that was not trained yet"
    )
    assert sentences(found) == snapshot({"do": "leave the statistics alone"})


def test_what_cannot_be_scored_is_repaired_with_a_score(diagnosed, truenorm):
    """The advice names the option without which it would fail, and runs once the two names are filled in."""
    code, found = diagnosed(data="data.py:no_labels")
    assert code == 3
    assert sentences(found) == snapshot(
        {
            "do": "truenorm repair --model net.py:make --checkpoint last.pt --score FILE.py:FUNCTION --data TRAINING_DATA --out last-mended.pt"
        }
    )
    named = {"TRAINING_DATA": "data.py:no_labels", "FILE.py:FUNCTION": "data.py:larger"}
    ended = truenorm(*to_run(found, **named))
    assert ended.code in (0, 3) and ended.err == ""  # whether it does better is for the score to say


def test_what_cannot_be_scored_and_is_not_off_is_looked_at_again_with_a_score(diagnosed, truenorm):
    truenorm(*REPAIRED)
    code, found = diagnosed(checkpoint="ok.pt", data="data.py:no_labels")
    assert code == 0
    assert sentences(found) == snapshot(
        {
            "do": "truenorm diagnose --model net.py:make --checkpoint ok.pt --score FILE.py:FUNCTION --data data.py:no_labels"
        }
    )


def test_advice_for_the_next_training_is_a_line_of_its_own(diagnosed):
    """The command can be copied as it stands."""
    net = runpy.run_path("net.py")["usual"]()
    net.load_state_dict(torch.load("last.pt")["model"])
    for x, y in runpy.run_path("data.py")["train"]():
        net(x[y == 2])  # the last ones are of one class: the data were sorted
    torch.save(net.state_dict(), "sorted.pt")
    _, found = diagnosed(checkpoint="sorted.pt")
    assert sentences(found) == snapshot(
        {
            "do": "truenorm repair --model net.py:make --checkpoint sorted.pt --data TRAINING_DATA --out sorted-mended.pt",
            "later": "shuffle what trains or recalibrates",
        }
    )
    assert found["recommendation"] == "; next time: ".join(sentences(found).values())


def test_a_healthy_network_is_exit_code_0(diagnosed, truenorm):
    truenorm(*REPAIRED)
    code, found = diagnosed(checkpoint="ok.pt")
    assert (code, found["healthy"]) == (0, True)
    assert sentences(found) == snapshot({"do": "leave the statistics alone"})


def test_without_data(diagnose, diagnosed):
    ended = diagnose(data=None)
    assert (ended.code, ended.text, ended.err) == snapshot(
        (
            0,
            """\
verdict  without data: nothing wrong is seen
do       truenorm diagnose --model net.py:make --checkpoint last.pt --data HELD_OUT_DATA
""",
            "",
        )
    )
    damaged = torch.load("last.pt")
    damaged["model"]["1.running_var"][0] = -1
    torch.save(damaged, "damaged.pt")
    code, found = diagnosed(data=None, checkpoint="damaged.pt")
    assert (code, found["outcome"]["kind"]) == (3, "defect")
    assert sentences(found) == snapshot(
        {
            "do": "truenorm repair --model net.py:make --checkpoint damaged.pt --data TRAINING_DATA --out damaged-mended.pt"
        }
    )


def test_a_generator_and_a_limit(diagnosed):
    def looked(*arguments, **how):
        _, found = diagnosed(*arguments, **how)
        return {name: found["looked"][name] for name in ("measured", "scored", "same", "batch_size")}

    expected = {"measured": 512, "scored": 512, "same": False, "batch_size": 32}
    assert looked(data="data.py:stream") == expected
    assert looked("--limit", "100") == expected | {"measured": 64, "scored": 64}


def test_weights_under_a_key_and_as_safetensors(diagnose, diagnosed, tmp_path):
    from safetensors.torch import save_file

    whole = torch.load(tmp_path / "last.pt")
    ema = {name: value.clone() for name, value in whole["model"].items()}
    ema["1.running_var"][0] = torch.nan
    torch.save(whole | {"ema": ema}, tmp_path / "both.pt")
    save_file(whole["model"], tmp_path / "last.safetensors")
    assert diagnose(checkpoint="both.pt").out == diagnose().out.replace("last", "both")
    _, found = diagnosed("--key", "ema", checkpoint="both.pt")
    assert (found["cause"], found["findings"][0]["layers"]) == ("not finite", ["1"])
    code, found = diagnosed(checkpoint="last.safetensors")
    assert code == 3
    assert to_run(found)[-4:] == ["--data", "TRAINING_DATA", "--out", "last-mended.safetensors"]


def test_a_printed_limit_repeats_the_diagnosis_to_the_bit(diagnosed, monkeypatch):
    """Where no limit is given it depends on how fast the network runs, so that it differs from machine to machine."""
    with monkeypatch.context() as slow:
        slow.setattr(size, "SECONDS", 0.0)
        by_time = diagnosed()[1]
    assert by_time["looked"]["limit"] == size.LEAST < 1024
    (limit,) = re.findall(r"limit (\d+)", "; ".join(by_time["notes"]))
    assert diagnosed("--limit", limit)[1] == by_time
    assert diagnosed()[1]["looked"] != by_time["looked"]  # the limit is what makes it


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, "repairable"),
        ({"data": None}, "no defect"),
        ({"data": "data.py:no_labels"}, "not scored"),
        ({"checkpoint": "ok.pt"}, "sound"),
        ({"checkpoint": "ok.pt", "data": "data.py:no_labels"}, "not scored"),
        ({"checkpoint": "ok.pt", "data": "data.py:few"}, "undecided"),
        ({"checkpoint": "nan.pt"}, "repairable"),
        ({"checkpoint": "nan.pt", "data": None}, "defect"),
        ({"checkpoint": "nan.pt", "data": "data.py:no_labels"}, "damaged"),
        ({"model": "torch.nn:Flatten", "checkpoint": None, "data": None}, "no batch norm"),
    ],
    ids=str,
)
def test_the_exit_code_is_what_the_record_holds(diagnosed, truenorm, how, kind):
    truenorm(*REPAIRED)
    damaged = torch.load("last.pt")
    damaged["model"]["1.running_var"][0] = torch.nan
    torch.save(damaged, "nan.pt")
    code, found = diagnosed(**how)
    assert (found["outcome"]["kind"], found["outcome"]["healthy"]) == (kind, found["healthy"])
    assert code == (0 if found["healthy"] else 3)


# Checkpoints without running statistics


@pytest.fixture
def parameters(trained, tmp_path):
    """Files of the parameters alone, as optimizers and some ports save them: of torch and of safetensors."""
    from safetensors.torch import save_file

    (tmp_path / "last.pt").write_bytes(trained["last.pt"])
    state = torch.load(tmp_path / "last.pt")["model"]
    state = {name: value for name, value in state.items() if "running" not in name and "num_batches" not in name}
    assert len(state) == 8
    torch.save({"epoch": 3, "model": state}, tmp_path / "parameters.pt")
    save_file(state, tmp_path / "parameters.safetensors")
    return state


FORMS = pytest.mark.parametrize("name", ["parameters.pt", "parameters.safetensors"])


@FORMS
def test_a_checkpoint_of_parameters_alone(diagnose, diagnosed, parameters, name):
    ended = diagnose(checkpoint=name)
    assert ended.text.splitlines()[0] == (
        f"{name} holds no running statistics: eval() divides by the initial mean 0 and variance 1"
    )
    code, found = diagnosed(checkpoint=name)
    assert (code, found["outcome"]["kind"], found["cause"]) == (3, "repairable", "never updated")
    assert found["findings"][0]["layers"] == ["1", "4"]
    assert sentences(found)["later"] == snapshot(
        "save model.state_dict(), which holds the running statistics, not the parameters alone"
    )


@FORMS
def test_the_line_to_run_gives_parameters_their_statistics(diagnosed, truenorm, parameters, tmp_path, name):
    from safetensors.torch import load_file

    _, found = diagnosed(checkpoint=name)
    ended = truenorm(*to_run(found, TRAINING_DATA="data.py:train"))
    assert (ended.code, ended.err) == (0, "")
    assert ended.text.splitlines()[-1] == f"note: {name} held no running statistics; they were added"
    mended = tmp_path / name.replace(".", "-mended.")
    state = load_file(mended) if mended.suffix == ".safetensors" else torch.load(mended)["model"]
    added = ("running_mean", "running_var", "num_batches_tracked")
    assert set(state) - set(parameters) == {f"{layer}.{part}" for layer in "14" for part in added}
    assert all(torch.equal(state[kept], value) for kept, value in parameters.items())
    network = runpy.run_path("net.py")["make"]()
    network.load_state_dict(state, strict=True)
    code, found = diagnosed(checkpoint=mended.name)
    assert (code, found["healthy"]) == (0, True)
    assert diagnosed(checkpoint=name)[0] == 3  # the file that came is as it was


def test_the_network_that_is_built_lends_no_statistics(diagnose, parameters, tmp_path):
    """Those of a network that was built with statistics of its own belong to other weights."""
    (tmp_path / "own.py").write_text(
        f"{NET}\ndef odd():\n    net = make()\n    net[1].running_mean.fill_(7)\n    net[4].running_var.fill_(9)\n"
        "    net[1].num_batches_tracked.fill_(5)\n    return net\n"
    )
    plain = diagnose(checkpoint="parameters.pt")
    odd = diagnose(checkpoint="parameters.pt", model="own.py:odd")
    assert (odd.code, odd.out.replace("own.py:odd", "net.py:make")) == (plain.code, plain.out)


@pytest.mark.parametrize("command", ["diagnose", "repair"])
def test_a_checkpoint_that_lacks_some_statistics_is_refused(truenorm, diagnose, parameters, tmp_path, command):
    torch.save(parameters | {"1.running_mean": torch.zeros(8), "1.running_var": torch.ones(8)}, "some.pt")
    rest = ["--data", "data.py:train", *(["--out", "out.pt"] if command == "repair" else [])]
    ended = truenorm(command, "--model", "net.py:make", "--checkpoint", "some.pt", *rest)
    assert (ended.code, ended.sentence) == snapshot(
        (
            2,
            "truenorm: some.pt does not fit the network: it lacks 4.running_mean, 4.running_var; is it of another network, or under another --key?",
        )
    )
    assert not (tmp_path / "out.pt").exists()


# Progress


def shown(monkeypatch, diagnose, *arguments, **how):
    """What it prints where standard error is a terminal, and the progress that it shows."""
    bars = in_terminal(monkeypatch)
    ended = diagnose(*arguments, **how)
    assert "truenorm: looking" not in ended.err
    return ended, bars


def in_terminal(monkeypatch):
    """Standard error is a terminal, standard output is none."""
    usual = terminal.console
    bars = Bars()

    def console(*, stderr=False):
        return Console(stderr=True, force_terminal=True, highlight=False) if stderr else usual()

    for module in (terminal, looking):
        monkeypatch.setattr(module, "console", console)
    monkeypatch.setattr(looking, "bars", bars)
    return bars


class Bars:
    """Bars as a terminal shows them, and what they were told."""

    def __init__(self):
        self.told = []

    @contextmanager
    def __call__(self, **how):
        with terminal.bars(**how) as progress:

            def told(*what_done_total):
                self.told.append(what_done_total)
                progress(*what_done_total)

            yield told


def test_progress_in_a_terminal(diagnose, monkeypatch):
    plain = diagnose()
    ended, bars = shown(monkeypatch, diagnose)
    assert (ended.code, ended.out) == (plain.code, plain.out)
    assert "looking at 1,024 samples" in ended.err and "%" in ended.err
    assert {(what, total) for what, _, total in bars.told} == {("looking at 1,024 samples", 8 * 1024)}
    done = [done for _, done, _ in bars.told]
    assert done[0] == 0 and done == sorted(done) and len(set(done)) > 20
    assert 8 * 1024 / 2 < done[-1] <= 8 * 1024  # what is expected comes near


def test_progress_leaves_no_hook_and_changes_no_figure(diagnose, monkeypatch):
    net, data = runpy.run_path("net.py")["usual"](), runpy.run_path("data.py")["val"]()
    expected = tn.diagnose(net, data)
    bars = in_terminal(monkeypatch)
    with looking.looking(net) as started:
        found = in_steps.diagnosed(net, data, started=started)
        assert len(net._forward_pre_hooks) == 1
    assert not net._forward_pre_hooks and not net._forward_pre_hooks_with_kwargs
    assert bars.told[-1][1] > 0
    assert found.to_dict() == expected.to_dict() and found.rows() == expected.rows()


def test_progress_leaves_no_hook_where_it_fails(monkeypatch):
    in_terminal(monkeypatch)
    net = torch.nn.Linear(2, 2)
    with suppress(KeyboardInterrupt), looking.looking(net) as started:
        started(3)
        assert net._forward_pre_hooks
        raise KeyboardInterrupt
    assert not net._forward_pre_hooks


ODD = f"""
{NET}
class Unhookable(nn.Sequential):
    def register_forward_pre_hook(self, *given, **named):
        raise RuntimeError("no hooks here")

def unhookable():
    return Unhookable(*make())

def program():
    return torch.jit.script(make().eval())

def by_parts(model, batch):
    output = batch[0]
    for part in model:
        output = part(output)
    return output

def by_name(model, batch):
    return model(input=batch[0])
"""


@pytest.mark.parametrize(
    ("model", "forward", "counted"),
    [
        ("unhookable", None, False),
        ("program", None, False),
        ("make", "by_parts", False),
        ("make", "by_name", True),
    ],
)
def test_what_cannot_be_counted_is_looked_at_all_the_same(diagnose, monkeypatch, tmp_path, model, forward, counted):
    (tmp_path / "odd.py").write_text(ODD)
    how = ["--forward", f"odd.py:{forward}"] if forward else []
    network = {"model": f"odd.py:{model}", "checkpoint": None}
    torch.manual_seed(0)
    plain = diagnose(*how, **network)
    torch.manual_seed(0)
    ended, bars = shown(monkeypatch, diagnose, *how, **network)
    assert (ended.code, ended.text) == (plain.code, plain.text) and plain.code in (0, 3)
    assert any(done > 0 for _, done, _ in bars.told) == counted


def test_without_a_terminal_one_line_and_without_data_none(diagnose):
    assert diagnose().err == LOOKING
    assert diagnose(data=None).err == ""


# Files


def test_a_record(diagnose, tmp_path):
    diagnose("--json", "found.json")
    record = Record.load(tmp_path / "found.json")
    assert record.command == (
        "truenorm diagnose --model net.py:make --checkpoint last.pt --data data.py:val --json found.json"
    )
    found = record.trials["diagnosis"]
    assert found["cause"] == "initial values" and found["healthy"] is False
    assert found["recommendation"] == sentences(found)["do"]
    assert {row.layer for row in record.rows if row.metric == "shift.own"} == {"1", "4"}


class Texts(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.texts, self.tags, self.links = [], set(), []
        self.feed(html)
        self.close()

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_a_page(diagnosed, tmp_path):
    name = "<script>net & co.py"
    (tmp_path / name).write_text(NET)
    _, found = diagnosed("--html", "found.html", model=f"{name}:make")
    shown = Texts((tmp_path / "found.html").read_text())
    assert shown.links == []
    assert shown.texts.count(f"diagnosis of {name}:make") == 2  # title and heading
    assert (
        f"truenorm diagnose --model '{name}:make' --checkpoint last.pt --data data.py:val --html found.html --json found.json"
        in shown.texts
    )
    assert sentences(found)["do"] in shown.texts


def test_a_page_needs_the_extra_report_alone(diagnose, monkeypatch):
    for module in ("datasets", "filelock", "PIL", "sklearn"):
        monkeypatch.setitem(sys.modules, module, None)
    assert diagnose("--html", "found.html").code == 3


def test_files_that_cannot_be_written(diagnose, tmp_path):
    (tmp_path / "a_file").write_text("")
    for option in ("--json", "--html"):
        ended = diagnose(option, "a_file/found")
        assert (ended.code, replace(ended, err=ended.err.removeprefix(LOOKING)).sentence) == snapshot(
            (2, "truenorm: cannot write a_file/found: File exists; choose another folder")
        )


# Bad input


@pytest.fixture
def refused(diagnose):
    def run(*arguments, **how):
        ended = diagnose(*arguments, **how)
        return ended.code, replace(ended, err=ended.err.removeprefix(LOOKING)).sentence

    return run


def test_networks_that_are_none(refused):
    assert refused(model="nets.py:make") == snapshot(
        (2, "truenorm: there is no file nets.py; it is looked for from the current folder; did you mean net.py?")
    )
    assert refused(model="net.py:build") == snapshot(
        (2, "truenorm: net.py has no 'build'; it has fails, make, number, usual, wider")
    )
    assert refused(model="resnet18") == snapshot(
        (
            2,
            "truenorm: 'resnet18' does not say what to take from where; expected file.py:name or package.module:name",
        )
    )
    assert refused(model="net.py:fails") == snapshot(
        (2, "truenorm: net.py:fails failed: RuntimeError: no weights here")
    )
    assert refused(model="net.py:number") == snapshot((2, "truenorm: net.py:number gave int, not a torch.nn.Module"))


def test_a_network_without_batch_norm_gets_an_answer(diagnose):
    ended = diagnose(model="torch.nn:Flatten", checkpoint=None)
    assert ended.code == 0 and "it is not batch norm: the network has none" in ended.text


def test_a_timm_network_that_is_none(refused, timm):
    code, sentence = refused(model="timm:resnet10")
    assert code == 2 and sentence.startswith("truenorm: timm has no model 'resnet10'; did you mean 'resnet")


def test_checkpoints_that_are_none(refused, tmp_path):
    assert refused(checkpoint="first.pt") == snapshot((2, "truenorm: there is no checkpoint first.pt"))
    (tmp_path / "garbage.pt").write_bytes(b"\x00\x01 no checkpoint")
    assert refused(checkpoint="garbage.pt") == snapshot(
        (2, "truenorm: garbage.pt is not a checkpoint: neither of torch's nor of safetensors' form")
    )
    (tmp_path / "garbage.safetensors").write_bytes(b"\x00\x01 no checkpoint")
    assert refused(checkpoint="garbage.safetensors") == snapshot(
        (
            2,
            "truenorm: garbage.safetensors is not a safetensors file: Error while deserializing header: header too large",
        )
    )
    (tmp_path / "cut.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:-3000])
    code, sentence = refused(checkpoint="cut.pt")
    assert code == 2 and sentence.startswith("truenorm: cut.pt cannot be read as a checkpoint: ")
    torch.save({"path": tmp_path, "model": torch.load(tmp_path / "last.pt")["model"]}, tmp_path / "code.pt")
    assert refused(checkpoint="code.pt") == snapshot(
        (
            2,
            "truenorm: code.pt holds more than weights and would run code when read (pathlib.PosixPath); if you trust where it comes from, say so: --trust-checkpoint",
        )
    )
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    assert refused(checkpoint="none.pt") == snapshot(
        (2, "truenorm: none.pt holds no state dict of tensors (it has: epoch); name where it lies by --key")
    )
    assert refused("--key", "modle") == snapshot(
        (2, "truenorm: unknown key of the checkpoint 'modle'; did you mean 'model'? Known: model")
    )


def test_a_checkpoint_of_another_network(refused):
    assert refused(model="net.py:wider") == snapshot(
        (
            2,
            "truenorm: last.pt does not fit the network: it lacks 0.bias, 2.bias, 2.weight and it has beside 3.weight, 4.bias, 4.num_batches_tracked, 4.running_mean and 4 more; is it of another network, or under another --key?",
        )
    )
    assert refused(model="torch.nn:Identity") == snapshot(
        (
            2,
            "truenorm: last.pt does not fit the network: it has beside 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean and 10 more; is it of another network, or under another --key?",
        )
    )


def test_a_checkpoint_of_the_same_names_and_other_shapes(refused, tmp_path):
    whole = torch.load(tmp_path / "last.pt")
    whole["model"]["6.weight"] = torch.zeros(5, 6)
    torch.save(whole, tmp_path / "five.pt")
    assert refused(checkpoint="five.pt") == snapshot(
        (2, "truenorm: five.pt does not fit the network: 6.weight has shape (5, 6) there and (3, 6) here")
    )


def test_data_that_are_none(refused):
    assert refused(data="data.py:fails") == snapshot(
        (2, "truenorm: data.py:fails failed: FileNotFoundError: images.zip")
    )
    assert refused(data="data.py:test") == snapshot((2, "truenorm: data.py has no 'test'; did you mean 'batches'?"))
    assert refused(data="data.py:empty") == snapshot(
        (2, "truenorm: data (list) gave no batches; is it empty, used up, or shorter than one batch?")
    )
    assert refused(data="data.py:wide") == snapshot(
        (
            2,
            "truenorm: the network fails on images of shape (8, 5): RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x5 and 4x8)",
        )
    )
    assert refused(data="digits") == snapshot(
        (
            2,
            "truenorm: the network fails on images of shape (64, 1, 8, 8): RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x8 and 4x8)",
        )
    )
    assert refused("--limit", "0") == snapshot((2, "truenorm: limit is 0; expected one sample or more"))
    assert refused(data="data.py:audio") == snapshot(
        (
            2,
            "truenorm: a batch is a dict with the keys 'audio', and no tensor of images was found in it; pass --forward FILE.py:FUNCTION",
        )
    )
    assert refused(data="data.py:odd") == snapshot(
        (
            2,
            "truenorm: the data have a class 200, the model gives 3 of them (0 is the first): either it is not the model of these data, or these labels are not classes and need a score of their own; pass --score FILE.py:FUNCTION",
        )
    )
    assert refused("--device", "gpu")[1].startswith("truenorm: the network cannot be put on 'gpu': ")


def test_a_loader_that_fails_on_the_way(refused):
    assert refused(data="data.py:fails_later") == snapshot(
        (
            2,
            "truenorm: looking at the network ended in OSError: images.zip ends here; nothing was changed (in Python, truenorm shows where)",
        )
    )


def test_a_data_set_that_is_unknown(refused):
    assert refused(data="fashion-mnist") == snapshot(
        (
            2,
            "truenorm: unknown data set 'fashion-mnist'; did you mean 'fashion_mnist' or 'mnist'? Known: cifar10, cifar100, digits, fashion_mnist, mnist",
        )
    )


TRAINS = """
import torch
from net import make

torch.save({"model": make().state_dict()}, "last.pt")  # a training script, its main part not guarded
"""


@pytest.mark.parametrize("which", ["model", "data", "score", "loader"])
def test_a_file_that_writes_the_checkpoint_is_named_and_nothing_is_said(truenorm, trained, tmp_path, which):
    for name, content in trained.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "train.py").write_text(
        TRAINS + DATA + "def score(output, batch):\n    return 1.0\n" if which != "loader" else
        DATA + f"def late():\n    yield from batches(2, 3)\n    exec({TRAINS!r})\n    yield from batches(3, 3)\n"
    )  # fmt: skip
    named = {"model": "net.py:make", "data": "data.py:val", "score": None}
    named |= {"data": "train.py:late"} if which == "loader" else {which: f"train.py:{WORDS[which]}"}
    words = [word for name, value in named.items() if value for word in (f"--{name}", value)]
    ended = truenorm("diagnose", *words, "--checkpoint", "last.pt", "--json", "out.json")
    assert ended.code == 1
    if which == "loader":  # which was read to its end
        ended = replace(ended, err=ended.err.removeprefix("truenorm: looking at 192 samples\n"))
    code = "net.py:make, train.py:late" if which == "loader" else f"train.py:{WORDS[which]}"
    assert ended.sentence == (
        f"truenorm: last.pt was written to while {code} ran, so the command stops here; that code seems to train or to "
        "save when it is run: put this under if __name__ == '__main__', restore the checkpoint, and run the command again"
    )
    assert not (tmp_path / "out.json").exists()


WORDS = {"model": "make", "data": "val", "score": "score"}


def test_what_is_diagnosed_is_what_was_read(truenorm, trained, tmp_path):
    """The weights are read before any file runs: a script that trained would otherwise be diagnosed itself."""
    for name, content in trained.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "late.py").write_text(
        f"{NET}\nimport os\nfrom pathlib import Path\nfile = Path('last.pt')\nfound = file.stat()\n"
        "file.write_bytes(bytes(found.st_size))\nos.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))\n"
    )
    plain = truenorm("diagnose", "--model", "net.py:make", "--checkpoint", "last.pt", "--data", "data.py:val")
    late = truenorm("diagnose", "--model", "late.py:make", "--checkpoint", "last.pt", "--data", "data.py:val")
    assert late.out.replace("late.py", "net.py") == plain.out


def test_interrupted(diagnose):
    ended = diagnose(data="data.py:stopped")
    assert ended.code == 130
    assert ended.sentence == "truenorm: interrupted; nothing was changed"


def test_help(truenorm, golden):
    ended = truenorm("diagnose", "--help")
    assert (ended.code, ended.err) == (0, "")
    golden("help-diagnose.txt", ended.out)

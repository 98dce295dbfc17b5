"""Whatever is wrong is one sentence and an exit code: 2 for wrong use, 1 for what failed."""

import sys
import time

import pytest
import torch
from inline_snapshot import snapshot

from truenorm.lab.study import study as running
from truenorm.record import Record

SMALL = ("--limit", "100", "--epochs", "1", "--widths", "12", "--seeds", "1")


@pytest.fixture
def study(truenorm):
    """Run a study that is refused: exit code and sentence; nothing must have been trained or written."""

    def run(*arguments, small=SMALL):
        ended = truenorm("study", *small, *arguments)
        return ended.code, ended.sentence

    return run


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(running, "measure_trial", lambda *args: pytest.fail("it trained"))


pytestmark = pytest.mark.usefixtures("truenorm")


def test_unknown_names(study, no_training):
    assert study("--data", "fashion-mnist") == snapshot(
        (
            2,
            "truenorm: unknown data set 'fashion-mnist'; did you mean 'fashion_mnist' or 'mnist'? Known: cifar10, "
            "cifar100, digits, fashion_mnist, mnist",
        )
    )
    assert study("--network", "cmn") == snapshot(
        (
            2,
            "truenorm: unknown network 'cmn'; did you mean 'cnn'? Known: cnn, file.py:factory, mlp, resnet18, resnet18-w16, resnet50, timm:NAME",
        )
    )
    assert study("--arms", "dmbn", "dmbn-onlin") == snapshot(
        (
            2,
            "truenorm: unknown arm 'dmbn-onlin'; did you mean 'dmbn-online' or 'dmbn-pooled'? Known: adaptive, all, "
            "bn-bfn, cumulative, default, dmbn, dmbn-online, dmbn-pooled, dmbn-switch, dynamic, gn, last-epoch, pooled-0.1, "
            "recalibrated, sequential, static, static-0.001, static-0.0016, static-0.0025, static-0.004, "
            "static-0.0063, static-0.01, static-0.016, static-0.025, static-0.04, static-0.063, static-0.1, "
            "static-0.15, static-0.22, static-0.33, static-0.5, static-0.9, update_bn",
        )
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batchsize", "4"], snapshot("Unknown option: --batchsize. Did you mean --batch-size?")),
        (
            ["--optimizer", "adam"],
            snapshot('Invalid value "adam" for --optimizer. Choose from: "sgd", "adamw". Did you mean "adamw"?'),
        ),
        (["--epochs", "many"], snapshot('Invalid value for --epochs: unable to convert "many" into int.')),
        (["extra"], snapshot("Unused Tokens: ['extra'].")),
    ],
)
def test_what_the_parser_refuses(truenorm, no_training, arguments, said):
    ended = truenorm("study", *arguments)
    assert (ended.code, ended.boxed) == (2, said)


def test_an_option_without_its_value(study, no_training):
    assert study("--lr") == snapshot((2, "truenorm: --lr is empty; give it a value or more, or leave it out"))


def test_an_unknown_command(truenorm):
    ended = truenorm("stduy")
    assert (ended.code, ended.boxed) == snapshot(
        (
            2,
            'Unknown command "stduy". Did you mean "study"? Available commands: diagnose, repair, study, claims, report, explain, env.',
        )
    )


def test_numbers_out_of_range(study, no_training):
    assert study("--batch-size", "1") == snapshot(
        (
            2,
            "truenorm: --batch-size 1 gives a layer of the mlp one value per channel: it has no variance to train "
            "on; take 2 or more",
        )
    )
    assert study("--momenta", "2") == snapshot(
        (2, "truenorm: momentum 2 is outside (0, 1]; torch's momentum is the weight of the new batch")
    )
    assert study("--lr", "nan") == snapshot((2, "truenorm: --lr is nan; it takes positive rates"))
    assert study("--limit", "0", small=()) == snapshot(
        (2, "truenorm: limit is 0; expected one image or more, or None for all")
    )


def test_groups_that_are_too_small(study, no_training):
    widths = ("--widths", "128", "64")
    assert study("--bfn", "group:64", "--arms", "bn-bfn", *widths, small=()) == snapshot(
        (
            2,
            "truenorm: network mlp with bn-bfn, layer 'norm2': 64 groups of 64 channels leave 1 values per group for input (2, 64); below 4 a group's output collapses, so take fewer groups: --bfn layer, or wider layers",
        )
    )


def test_a_missing_extra(study, no_training, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert study() == snapshot(
        (
            2,
            "truenorm: scikit-learn is not installed; run: pip install 'altair>=6' 'datasets>=4.4' 'filelock>=3.20' 'jinja2>=3.1' 'pillow>=12' 'scikit-learn>=1.7' 'vl-convert-python>=1.9'",
        )
    )


def test_a_missing_extra_of_the_data(study, no_training, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert study("--data", "mnist") == snapshot(
        (
            2,
            "truenorm: datasets is not installed; run: pip install 'altair>=6' 'datasets>=4.4' 'filelock>=3.20' 'jinja2>=3.1' 'pillow>=12' 'scikit-learn>=1.7' 'vl-convert-python>=1.9'",
        )
    )


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_no_network_and_no_local_copy(study, no_training, offline):
    begun = time.monotonic()
    assert study("--data", "mnist") == snapshot(
        (
            1,
            "truenorm: mnist is not in the local cache, no data root is given, and HF_HUB_OFFLINE forbids asking the "
            "hub; put a copy at FOLDER/mnist and name FOLDER by --data-root or TRUENORM_DATA",
        )
    )
    assert time.monotonic() - begun < 15


def test_a_folder_of_images_without_labels(study, no_training, offline, tmp_path):
    from PIL import Image

    (tmp_path / "photos" / "train").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / "photos" / "train" / f"{number}.png")
    assert study("--data", "photos") == snapshot(
        (
            1,
            "truenorm: photos has no labels (its columns: image); add a column 'label', or put the images of each "
            "class into a folder of its own",
        )
    )


def test_a_network_whose_layer_gets_one_value_per_channel(study, no_training, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(norm_layer):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm_layer(6), nn.Linear(6, 10))\n"
    )
    assert study("--network", "net.py:make", "--batch-size", "1") == snapshot(
        (
            2,
            "truenorm: layer '2' got a batch of one value per channel, shape (1, 6): it has no variance to train on; "
            "use a larger batch, or drop_last for the last one",
        )
    )


def test_a_network_that_cannot_be_loaded(study, no_training, tmp_path):
    (tmp_path / "net.py").write_text("import a_module_that_is_not_there\n")
    assert study("--network", "net.py:make") == snapshot(
        (2, "truenorm: net.py raised ModuleNotFoundError: No module named 'a_module_that_is_not_there' when it was run")
    )
    assert study("--network", "nets.py:make") == snapshot(
        (2, "truenorm: there is no file nets.py; it is looked for from the current folder; did you mean net.py?")
    )


def test_a_loss_that_diverges(study, tmp_path):
    assert study("--lr", "1e20") == snapshot(
        (
            1,
            "truenorm: every training diverged; the first was bn, seed 0 (digits, mlp, batch 32, cosine rate): training diverged in epoch 1 by step 4: the loss is nan at --lr 1e+20; try a smaller rate",
        )
    )
    marked = Record.load(tmp_path / "results" / "study").trials.values()
    assert [(trial["network"], trial["diverged"]) for trial in marked] == snapshot(
        [
            ("mlp", "training diverged in epoch 1 by step 4: the loss is nan at --lr 1e+20; try a smaller rate"),
            ("mlp", "training diverged in epoch 1 by step 4: the loss is nan at --lr 1e+20; try a smaller rate"),
            ("mlp", "training diverged in epoch 1 by step 4: the loss is nan at --lr 1e+20; try a smaller rate"),
        ]
    )


def test_a_folder_that_cannot_be_written_to(study, no_training, tmp_path):
    (tmp_path / "a_file").write_text("")
    assert study("--out", "a_file/results") == snapshot(
        (2, "truenorm: cannot write to a_file/results: Not a directory; choose another folder")
    )


def test_no_gpu(study, no_training, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert study("--device", "cuda") == snapshot(
        (2, "truenorm: --device cuda: torch finds no CUDA GPU here; leave it at cpu")
    )


def test_a_disk_that_is_full_when_the_record_is_written(study, truenorm, monkeypatch, tmp_path):
    from truenorm import files

    def full(*arguments):
        raise OSError(28, "No space left on device")

    results = tmp_path / "results" / "study"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        found = study("--arms", "static-0.1")
    assert [file.suffix for file in results.rglob("*") if file.is_file()] == [".lock"]
    truenorm("study", *SMALL, "--arms", "static-0.1")  # now it is written
    (trial,) = results.glob("trials/*.json")
    said = f"truenorm: cannot write results/study/trials/{trial.name}: No space left on device; choose another folder"
    assert found == (2, said)


def test_records_that_cannot_be_shown(truenorm, tmp_path):
    def report(name):
        ended = truenorm("report", name)
        return ended.code, ended.sentence

    assert report("nowhere") == snapshot((1, "truenorm: cannot read nowhere: No such file or directory"))
    (tmp_path / "cut.json").write_text('{\n "format": 1,\n "comm')
    assert report("cut.json") == snapshot(
        (
            1,
            "truenorm: cut.json: not a record: Unterminated string starting at: line 3 column 2 (char 17); was the "
            "file cut short?",
        )
    )
    (tmp_path / "other.json").write_text('{"format": 2}')
    assert report("other.json") == snapshot(
        (1, "truenorm: other.json: the record has format 2, this truenorm reads 1; read it with what wrote it")
    )
    (tmp_path / "list.json").write_text("[1, 2]")
    assert report("list.json") == snapshot(
        (1, "truenorm: list.json: not a record: there is no format number at its top")
    )


def test_a_record_of_something_else(truenorm, tmp_path):
    from truenorm.record import Measurement

    Record(command="truenorm bench", rows=(Measurement("t", "a", None, "seconds", 1.0),)).save(tmp_path / "record.json")
    ended = truenorm("report", ".")
    assert (ended.code, ended.sentence) == snapshot(
        (1, "truenorm: the record has rows of a trial 't' that its header does not describe")
    )


def test_our_own_mistakes_are_not_hidden(truenorm, monkeypatch):
    """A bug is a traceback with its place, never a sentence that blames the user."""
    monkeypatch.setattr(running, "measure_trial", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        truenorm("study", "--limit", "100")

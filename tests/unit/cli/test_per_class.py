"""`--per-class`: of a study of 100 classes in the layout that the hub's CIFAR-100 has, and of records."""

import io
import json

import datasets
import numpy as np
import pytest
from inline_snapshot import snapshot
from PIL import Image

from truenorm.lab.report.class_tables import class_tables
from truenorm.lab.report.study_record import read_study
from truenorm.lab.report.summary import only_summary, summaries
from truenorm.metrics.confusion import Confusion
from truenorm.record import Record
from truenorm.show import plain

FINE = [f"fine_{number}" for number in range(100)]
COARSE = [f"coarse_{number}" for number in range(20)]


def pixels(label, draw):
    """Images of a class have a colour of their own, and noise."""
    colour = np.random.default_rng(label).integers(0, 256, 3)
    file = io.BytesIO()
    noisy = np.clip(colour + draw.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A folder that holds `cifar100/cifar100/{train,test}-00000-of-00001.parquet` with the hub's three columns."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    columns = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(names=FINE),
        "coarse_label": datasets.ClassLabel(names=COARSE),
    }
    folder, draw = tmp_path / "sets" / "cifar100" / "cifar100", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, each in (("train", 4), ("test", 2)):
        labels = draw.permutation(np.repeat(np.arange(100), each)).tolist()
        rows = {
            "img": [pixels(label, draw) for label in labels],
            "fine_label": labels,
            "coarse_label": [label // 5 for label in labels],
        }
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "sets"


def test_a_study_of_100_classes(truenorm, cifar100, tmp_path):
    ended = truenorm(
        "study", "--data", "cifar100", "--data-root", str(cifar100), "--image-size", "8", "--validation", "0",
        "--widths", "32", "--epochs", "1", "--seeds", "2", "--arms", "dmbn", "bn-bfn", "--momenta", "0.01",
        "--per-class", "--out", "out",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    record = Record.load("out")
    assert record.configuration["images"]["cifar100"]["class_names"] == FINE
    assert {len(one.counts) for one in record.class_counts} == {100}
    assert [one.arm for one in record.class_counts] == ["static-0.1", "dmbn", "bn-bfn"] * 2
    for one in record.class_counts:
        assert [sum(row) for row in one.counts] == [2] * 100
    # The table is that of the record, and as long as a reader takes in.
    (table,) = class_tables(summaries(read_study(record)))
    assert plain(table, 150) in ended.text
    assert len(table.rows) == 12 + 2 and "88 of 100 classes are not shown: F changes no more in them." in table.notes
    assert table.columns[-2:] == ("dmbn", "bn-bfn") and {row[1] for row in table.rows[:12]} == {"2"}
    # On a balanced test set macro and weighted sensitivity are the accuracy.
    summary = only_summary(read_study(record))
    assert [row[2] for row in table.rows[12:]] == [f"{100 * mean(summary, 'accuracy'):.2f} ± {width(summary):.2f}"] * 2
    # What is not compared costs nothing: record and page stay small.
    assert (tmp_path / "out" / "record.json").stat().st_size < 200_000
    assert (tmp_path / "out" / "report.html").stat().st_size < 700_000


def mean(summary, metric):
    return summary.interval("static-0.1", metric).mean


def width(summary):
    return summary.interval("static-0.1", "accuracy", 100).half_width


def test_the_coarse_labels_are_not_the_classes(cifar100):
    """Planted: the 20 coarse classes instead of the 100 fine ones would be another confusion matrix."""
    from truenorm.lab.images.sets import load

    assert load("cifar100", str(cifar100), size=8).classes == tuple(FINE)


@pytest.fixture
def record(truenorm, tiny):
    """The folder of a tiny study of digits."""
    assert truenorm("study", *tiny, "--out", "out").code == 0
    return "out"


def test_a_report_prints_the_classes_that_the_study_would_have(truenorm, tiny, record):
    plainly = truenorm("report", record)
    ended = truenorm("report", record, "--per-class")
    (table,) = class_tables(summaries(read_study(Record.load(record))))
    assert (ended.code, ended.err) == (0, "")
    assert plain(table, 150) in ended.text and "class by class" not in plainly.out
    assert ended.text.replace(plain(table, 150) + "\n", "") == plainly.text
    again = truenorm("study", *tiny, "--per-class", "--out", "out")  # all trials are there
    assert again.text.removesuffix("page: out/report.html\n").removesuffix("record: out/record.json\n") == (
        ended.text.removesuffix("page: out/report.html\n")
    )


def test_the_numbers_of_the_table_are_those_of_the_record(record):
    found = Record.load(record)
    (table,) = class_tables(summaries(read_study(found)))
    matrices = [Confusion(one.counts) for one in found.class_counts if one.arm == "static-0.1"]
    for number, row in enumerate(table.rows[:10]):
        sensitivities = [100 * one.counts[number][number] / sum(one.counts[number]) for one in matrices]
        assert row[0] == str(number) and row[2].startswith(f"{sum(sensitivities) / 2:.2f} ± ")


def test_a_record_of_before_there_were_matrices(truenorm, record, tmp_path):
    path = tmp_path / "out" / "record.json"
    data = json.loads(path.read_text())
    del data["class_counts"], data["configuration"]["images"]["digits"]["class_names"]
    path.write_text(json.dumps(data))
    ended = truenorm("report", record, "--per-class")
    assert (ended.code, ended.err) == (0, "")
    assert ended.text[ended.text.index("class by class") :].splitlines()[:7] == snapshot(
        [
            "class by class: nothing is recorded",
            "",
            " class   images   sensitivity %   specificity %   F %",
            " ────────────────────────────────────────────────────",
            "",
            "The record holds no confusion matrices: it was made",
            "before truenorm kept them. Its command, with a new",
        ]
    )
    assert "Class by class" not in (tmp_path / "out" / "report.html").read_text()


def test_where_there_are_no_classes_to_show(truenorm, record, tmp_path):
    Record(command="truenorm diagnose", trials={"diagnosis": {"verdict": "healthy", "healthy": True}}).save(
        tmp_path / "diagnosis.json"
    )
    Record(command="truenorm claims", configuration={"claims": []}).save(tmp_path / "claims.json")
    for arguments in (("diagnosis.json",), (record, "diagnosis.json")):
        ended = truenorm("report", *arguments, "--per-class")
        assert (ended.code, ended.sentence) == {
            ("diagnosis.json",): snapshot(
                (2, "truenorm: --per-class shows the classes of a study, and this record is of another command")
            ),
            (record, "diagnosis.json"): snapshot(
                (2, "truenorm: --per-class shows the classes of one record, and 2 are given; draw it alone")
            ),
        }[arguments]

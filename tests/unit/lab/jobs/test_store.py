"""The folder of trials: what is in it, who is at it, and what happens when it is damaged or full."""

import errno
import os
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot

from truenorm import files
from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.lab.jobs.store import Store
from truenorm.record import FORMAT, Measurement, Record

RECORD = Record(command="", rows=(Measurement("t", "bn", None, "accuracy", 0.5),), trials={"t": {"seed": 0}})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # sentences name the path as it was given
    return Store(Path("trials"), keep_every=0.0)


def test_what_is_finished_is_found_by_any_process(store):
    assert store.finished("a") is None
    store.finish("a", RECORD)
    assert store.finished("a") == Store(store.folder).finished("a") == RECORD
    assert store.finished("b") is None


def test_a_trial_running(store):
    assert store.running("a").saved is None
    state = {"training": torch.arange(3), "losses": [0.5], "names": ["x"]}
    store.running("a").keep(state)
    kept = store.running("a").saved
    assert torch.equal(kept["training"], state["training"])
    assert (kept["losses"], kept["names"]) == ([0.5], ["x"])
    store.finish("a", RECORD)
    assert store.running("a").saved is None


def test_it_is_not_kept_more_often_than_asked(store):
    Store(store.folder, keep_every=3600.0).running("a").keep({"training": 1})
    assert store.running("a").saved is None


def test_one_process_at_a_trial(store):
    other = Store(store.folder)
    with store.claimed("a") as mine:
        assert mine
        with other.claimed("a") as theirs, other.claimed("b") as another:
            assert not theirs
            assert another
    with other.claimed("a") as theirs:
        assert theirs


def test_a_process_that_is_killed_lets_go(store):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with Store(store.folder).claimed("a"):
            os.write(tell, b"x")
            os.read(os.pipe()[0], 1)  # for ever: nobody writes there
    os.read(ready, 1)
    with store.claimed("a") as mine:
        assert not mine
    os.kill(child, 9)
    os.waitpid(child, 0)
    with store.claimed("a") as mine:
        assert mine


def test_the_lock_of_a_finished_trial_is_cleared_away(store):
    with store.claimed("a"):
        store.finish("a", RECORD)
    assert [file.name for file in store.folder.iterdir()] == ["a.json"]


def test_what_a_killed_process_was_writing_is_cleared_away(store):
    (store.folder / ".a.pt.x1y2").write_bytes(b"half")
    (store.folder / ".b.pt.x1y2").write_bytes(b"another process is at it")
    store.finish("a", RECORD)
    assert sorted(file.name for file in store.folder.iterdir()) == [".b.pt.x1y2", "a.json"]


def test_a_damaged_trial(store):
    (store.folder / "a.json").write_text(RECORD.dumps()[:-20])
    with pytest.raises(InvalidRecord) as caught:
        store.finished("a")
    assert str(caught.value) == snapshot(
        "trials/a.json: not a record: Expecting value: line 24 column 31 (char 293); was the file cut short? (delete the file, and the trial runs again)"
    )


def test_a_trial_of_a_newer_format(store):
    (store.folder / "a.json").write_text(RECORD.dumps().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(InvalidRecord) as caught:
        store.finished("a")
    assert str(caught.value) == snapshot(
        "trials/a.json: the record has format 99, this truenorm reads 1; read it with what wrote it (delete the file, and the trial runs again)"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no archive at all"),
        lambda file: torch.save({"something": "else"}, file),
    ],
)
def test_a_damaged_state_of_a_running_trial(store, damage):
    store.running("a").keep({"training": torch.arange(100)})
    damage(store.folder / "a.pt")
    with pytest.raises(InvalidRecord) as caught:
        store.running("a")
    assert str(caught.value) == snapshot(
        "trials/a.pt: the state of a running trial cannot be read; delete the file, and the trial starts over"
    )


def test_a_full_disk_loses_nothing(store, monkeypatch):
    store.finish("a", RECORD)
    running = store.running("b")
    running.keep({"training": 1})
    before = {file.name: file.read_bytes() for file in store.folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    for write in (lambda: store.finish("b", RECORD), lambda: running.keep({"training": 2})):
        with pytest.raises(InvalidInput) as caught:
            write()
        assert str(caught.value).endswith(": No space left on device; choose another folder")
    assert {file.name: file.read_bytes() for file in store.folder.iterdir()} == before
    assert store.finished("b") is None


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trials").write_text("a file")
    with pytest.raises(InvalidInput) as caught:
        Store(Path("trials"))
    assert str(caught.value) == snapshot("cannot write to trials: File exists; choose another folder")

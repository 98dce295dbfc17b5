import os
import stat

import pytest
from inline_snapshot import snapshot

from truenorm import files
from truenorm.errors import InvalidInput
from truenorm.files import ensure_writable, write_whole


@pytest.fixture
def below_a_file(tmp_path, monkeypatch):
    """A folder that nobody can make, root included; named from the current folder so that messages repeat."""
    (tmp_path / "a_file").write_text("here")
    monkeypatch.chdir(tmp_path)
    return "a_file/results"


def test_a_file_is_written_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "record.json"
    write_whole(target, b"\x00whole")
    assert target.read_bytes() == b"\x00whole"
    assert os.listdir(target.parent) == ["record.json"]


def test_a_file_is_as_readable_as_any_other_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "record", b"")
        assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, failure):
    target = tmp_path / "record.json"
    target.write_bytes(b"old")

    def fail(*arguments):
        raise failure

    monkeypatch.setattr(files.os, step, fail)
    expected = InvalidInput if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_this_comparison_sees_a_writer_that_writes_in_place(tmp_path, monkeypatch):
    """Planted: a writer that opens the target itself fails the test above."""

    def in_place(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    target = tmp_path / "record.json"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        in_place(target, b"new and longer")
    assert target.read_bytes() != b"old"


def test_the_reason_is_said(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(InvalidInput) as caught:
        write_whole("results/record.json", b"new")
    assert str(caught.value) == snapshot(
        "cannot write results/record.json: No space left on device; choose another folder"
    )


def test_a_folder_that_cannot_be_written_to(below_a_file):
    with pytest.raises(InvalidInput) as caught:
        ensure_writable(below_a_file)
    assert str(caught.value) == snapshot("cannot write to a_file/results: Not a directory; choose another folder")
    with pytest.raises(InvalidInput) as caught:
        write_whole(f"{below_a_file}/record.json", b"")
    assert str(caught.value) == snapshot(
        "cannot write a_file/results/record.json: Not a directory; choose another folder"
    )


def test_a_target_that_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record.json").mkdir()
    with pytest.raises(InvalidInput) as caught:
        write_whole("record.json", b"new")
    assert str(caught.value) == snapshot("cannot write record.json: Is a directory; choose another folder")
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert ensure_writable(folder) == folder
    assert os.listdir(folder) == []
    assert ensure_writable(str(folder)) == folder

import errno
import os
from pathlib import Path

import pytest

from kd_offline.errors import StorageError
from kd_offline.files import make_folder, only_writer, write_file


def test_text_is_written_as_it_is(tmp_path):
    write_file(tmp_path / "x", "Größe\n\r\n")
    assert (tmp_path / "x").read_bytes() == "Größe\n\r\n".encode()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, step):
    file = tmp_path / "card.json"
    write_file(file, b"old")

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(StorageError, match=r"card\.json': No space left on device; free space"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        make_folder(tmp_path / "file" / "folder")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with (
        only_writer(tmp_path, "training"),
        pytest.raises(StorageError, match="another process is training in"),
        only_writer(tmp_path, "training"),
    ):
        pass
    with only_writer(tmp_path, "training"):
        assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_is_written(tmp_path):
    write_file(tmp_path / "x", b"")
    (tmp_path / "y").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode

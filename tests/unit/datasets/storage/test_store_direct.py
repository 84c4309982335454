"""Large files written past the page cache, and in the common way where that is not possible."""

from __future__ import annotations

import errno
import os

import pytest

from kd_offline.datasets.storage import store
from kd_offline.datasets.storage.store import Folder

MIB = 1 << 20
SIZES = (MIB, MIB + 1, 8 * MIB, 8 * MIB + 4095, 17 * MIB + 4097)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def content(size):
    return os.urandom(size)


@pytest.mark.parametrize("size", SIZES)
def test_every_byte_arrives(folder, size):
    data = content(size)
    record = folder.write("steps/obs/c/0", data)
    assert (folder.root / "steps/obs/c/0").read_bytes() == data
    assert record.size == size
    assert list(folder.root.iterdir()) == [folder.root / "steps"]


def test_small_files_go_the_common_way(tmp_path):
    assert not store.try_write_directly(tmp_path / "small", content(store.DIRECT_BYTES - 1))
    assert not (tmp_path / "small").exists()


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="a way of Linux")
@pytest.mark.parametrize("refusal", ["open", "write", "short"])
def test_refusals_of_the_file_system_are_no_failure(folder, monkeypatch, refusal):
    opens, writes = os.open, os.write

    def refusing_open(path, flags, mode=0o777, **other):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opens(path, flags, mode, **other)

    def refusing_write(file, data):
        if refusal == "short":
            return writes(file, data[: len(data) // 2])
        raise OSError(errno.EINVAL, "Invalid argument")

    if refusal == "open":
        monkeypatch.setattr(os, "open", refusing_open)
    else:
        monkeypatch.setattr(os, "write", refusing_write)
    data = content(2 * MIB + 3)
    assert not store.try_write_directly(folder.root / "aside", data)
    folder.write("chunk", data)
    assert (folder.root / "chunk").read_bytes() == data


def test_a_longer_file_before_leaves_nothing_behind(folder):
    folder.write("chunk", content(9 * MIB))
    data = content(MIB + 7)
    folder.write("chunk", data)
    assert (folder.root / "chunk").read_bytes() == data


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are not refused here")
def test_no_link_is_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (tmp_path / "recording.tmp").symlink_to(elsewhere)
    data = content(2 * MIB)
    folder.write("chunk", data)
    assert (folder.root / "chunk").read_bytes() == data
    assert elsewhere.read_bytes() == b"theirs"

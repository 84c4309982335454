"""Places that are copied to: what is of no dataset stays, and writers exclude each other."""

import hashlib

import pytest

from kd_offline.datasets import verify
from kd_offline.datasets.sharing.share import push
from kd_offline.datasets.sharing.targets import LocalTarget
from kd_offline.datasets.storage import store
from kd_offline.datasets.storage.store import Folder
from kd_offline.errors import (
    DatasetError,
    StorageError,
    UsageError,
)
from kd_offline.schemas.dataset import FileRecord
from kd_offline.tracking.base import FunctionObserver

PLACES = ["folder", "s3"]


@pytest.fixture
def place(request, tmp_path):
    """An empty destination."""
    if request.param == "folder":
        return str(tmp_path / "copy.zarr")
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}/copy.zarr"


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


@everywhere
def test_files_that_are_of_no_dataset_are_never_touched(whole, place):
    _target(place).write("thesis.tex", b"years of work")
    for overwrite in (False, True):
        with pytest.raises(StorageError, match=r"of no dataset, such as 'thesis\.tex'"):
            push(whole.path, place, overwrite=overwrite)
    assert _target(place).listing() == {"thesis.tex": 13}


def _target(place):
    from pathlib import Path

    from kd_offline.datasets.sharing.targets import LocalTarget, ObjectTarget
    from kd_offline.datasets.storage.remote import Remote, open_store

    if "://" in place:
        return ObjectTarget(Remote(place, open_store(place), listable=True))
    Path(place).mkdir(exist_ok=True)
    return LocalTarget(Path(place))


def test_destinations_that_cannot_be_written_are_refused(whole, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        push(whole.path, tmp_path / "file")
    with pytest.raises(StorageError, match="cannot make the folder"):
        push(whole.path, tmp_path / "file" / "copy.zarr")
    with pytest.raises(UsageError, match="a web server"):
        push(whole.path, "https://example.org/d.zarr")
    with pytest.raises(UsageError, match="write it without"):
        push(whole.path, f"{tmp_path / 'x'}@{whole.id}")


def test_a_link_in_the_destination_is_not_followed(whole, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "copy.zarr").mkdir()
    (tmp_path / "copy.zarr" / "steps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((DatasetError, StorageError)):
        push(whole.path, tmp_path / "copy.zarr", overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_two_pushes_to_one_folder_exclude_each_other(whole, tmp_path):
    refused = []

    def again(done, total, unit):
        with pytest.raises(StorageError, match="another process"):
            push(whole.path, tmp_path / "copy.zarr")
        refused.append(done)

    push(whole.path, tmp_path / "copy.zarr", observers=[FunctionObserver(progress=again)])
    assert refused
    assert verify(tmp_path / "copy.zarr", quick=True).ok
    assert not (tmp_path / "copy.zarr" / "recording.lock").exists()


def test_files_that_vanish_while_they_are_listed_are_left_out(tmp_path, monkeypatch):
    """As where another command renames its temporary file, on a disk without locks."""
    (tmp_path / "zarr.json").write_bytes(b"{}")
    monkeypatch.setattr(Folder, "files", lambda folder: iter([".part-1", "zarr.json"]))
    assert LocalTarget(tmp_path).listing() == {"zarr.json": 2}


def test_a_file_that_was_removed_since_it_was_listed_is_not_there(tmp_path):
    file = FileRecord(path="zarr.json", size=2, sha256=hashlib.sha256(b"{}").hexdigest())
    assert not LocalTarget(tmp_path).holds(file, lambda: b"{}")
    (tmp_path / "zarr.json").write_bytes(b"{}")
    assert LocalTarget(tmp_path).holds(file, lambda: b"{}")


def test_two_writers_never_rename_each_others_files(tmp_path, monkeypatch):
    """Threads of two processes may have the same number."""
    write = store._write_aside

    def overtaken(path, data, durable):
        write(path, data, durable)
        if data == b"first":
            LocalTarget(tmp_path).write("b", b"second")

    monkeypatch.setattr(store, "_write_aside", overtaken)
    LocalTarget(tmp_path).write("a", b"first")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert (tmp_path / "b").read_bytes() == b"second"
    assert LocalTarget(tmp_path).listing() == {"a": 5, "b": 6}

"""Writing and reading stay within the folder; what cannot be read is told."""

import os
import shutil

import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.store import Folder, lock_folder
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import CorruptDatasetError, StorageError
from kd_offline.testing.factories import header, tiny_dataset


@pytest.fixture
def outside(tmp_path):
    place = tmp_path / "outside"
    place.mkdir()
    (place / "file").write_text("mine")
    return place


def test_nothing_is_written_through_links(tmp_path, outside):
    root = tmp_path / "d.zarr"
    root.mkdir()
    (root / "steps").symlink_to(outside)
    with pytest.raises(CorruptDatasetError, match="steps is a link"):
        Folder(root).write("steps/file", b"theirs")
    (root / "recording.tmp").symlink_to(outside / "file")
    Folder(root).write("file", b"theirs")
    assert (root / "file").read_bytes() == b"theirs"
    (root / "recording.lock").symlink_to(outside / "file")
    with pytest.raises(StorageError, match="cannot write to"):
        lock_folder(root)
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("file", "mine")]


def test_hard_links_keep_what_they_lead_to(tmp_path, outside):
    root = tmp_path / "d.zarr"
    root.mkdir()
    for name in ("recording.tmp", "recording.lock", "file"):
        (root / name).hardlink_to(outside / "file")
    with lock_folder(root):
        Folder(root).write("file", b"theirs" * (1 << 20))
    assert (outside / "file").read_text() == "mine"


def test_overwriting_a_dataset_of_links_deletes_the_links_alone(tmp_path, outside):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    shutil.rmtree(buffer.path / "steps")
    (buffer.path / "steps").symlink_to(outside)
    DatasetWriter.create(buffer.path, header(buffer.spec), overwrite=True).close()
    assert not (buffer.path / "steps").is_symlink()
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("file", "mine")]


def test_the_folder_itself_may_be_a_link(tmp_path):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    (tmp_path / "link").symlink_to(buffer.path)
    assert ExpertBuffer.open(tmp_path / "link").id == buffer.id
    assert verify(tmp_path / "link").ok


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    buffer = tiny_dataset(tmp_path / "d.zarr")
    real = os.open

    def refuse(path, *arguments, **options):
        if "steps/logits/c" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"logits/c/0/0/0' \(Permission denied\)"):
        ExpertBuffer.open(buffer.path).read("steps/logits")
    for quick in (True, False):
        (problem,) = verify(buffer.path, quick=quick).problems
        assert problem.where.startswith("steps/logits rows 0 to ")
        assert "Permission denied" in problem.what

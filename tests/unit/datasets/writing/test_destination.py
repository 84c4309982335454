"""The folder of a new dataset: what is there is continued or replaced on request alone."""

import shutil

import pytest

from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage import store
from kd_offline.datasets.validation.integrity import verify
from kd_offline.datasets.writing import destination
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    CorruptDatasetError,
    StorageError,
    UnfinishedError,
)
from kd_offline.testing.factories import (
    header,
)
from tests.unit.datasets.writing.conftest import SPEC, blocks, record


def test_a_folder_that_is_locked_by_a_file_as_on_windows_is_empty(tmp_path):
    (tmp_path / ".lock").touch()
    destination.refuse_occupied(tmp_path, resume=False, overwrite=False)


def test_existing_datasets_are_not_touched(tmp_path):
    path = tmp_path / "d.zarr"
    first = record(path)
    with pytest.raises(StorageError, match=r"finished dataset .* overwrite=True"):
        record(path)
    with pytest.raises(StorageError, match=r"finished dataset"):
        record(path, resume=True)
    assert ExpertBuffer.open(path).id == first.id
    assert record(path, overwrite=True).id == first.id


def test_unfinished_recordings_are_not_touched(tmp_path):
    path = tmp_path / "d.zarr"
    DatasetWriter.create(path, header(SPEC)).close()
    with pytest.raises(StorageError, match=r"resume=True or delete it with overwrite=True"):
        record(path)
    record(path, overwrite=True)


def test_foreign_folders_are_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StorageError, match="not empty and holds no dataset"):
            record(tmp_path, **options)
    assert (tmp_path / "thesis.tex").exists()


def test_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        record(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot make the folder"):
        record(tmp_path / "file" / "d.zarr")


def test_a_writer_that_finishes_while_another_one_looks(tmp_path, monkeypatch):
    """The second one saw an unfinished recording, and gets the lock once it is a dataset."""
    path, real = tmp_path / "d.zarr", store.lock_folder
    DatasetWriter.create(path, header(SPEC)).close()

    def late(root):
        with monkeypatch.context() as patched:
            patched.setattr(destination, "lock_folder", real)
            record(path, resume=True)
        return real(root)

    monkeypatch.setattr(destination, "lock_folder", late)
    with pytest.raises(StorageError, match="finished dataset"):
        DatasetWriter.create(path, header(SPEC), resume=True)
    assert verify(path).ok
    assert not (path / "recording.json").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_killed_while_overwriting(tmp_path, monkeypatch, finished):
    path = tmp_path / "d.zarr"
    with DatasetWriter.create(path, header(SPEC)) as writer:
        writer.append(blocks()[0])
        if finished:
            writer.commit()

    def killed(folder, **options):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(SystemExit):
            record(path, overwrite=True)
    with pytest.raises(UnfinishedError, match=r"resume=True"):
        ExpertBuffer.open(path)
    if finished:
        with pytest.raises(CorruptDatasetError, match="record again with overwrite=True"):
            record(path, resume=True)
    assert record(path, overwrite=True).id == record(tmp_path / "whole.zarr").id

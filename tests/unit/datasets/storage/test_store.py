"""One writer at a time in the folder of a dataset."""

import pytest

from kd_offline.datasets.storage import safe_open, store
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import (
    StorageError,
)
from kd_offline.testing.factories import (
    environment_spec,
    header,
)

SPEC = environment_spec((6, 3), (5, 2))


def test_two_writers_on_one_dataset(tmp_path):
    path = tmp_path / "d.zarr"
    with (
        DatasetWriter.create(path, header(SPEC)),
        pytest.raises(StorageError, match="another process is recording"),
    ):
        DatasetWriter.create(path, header(SPEC), resume=True)


def test_a_lock_that_was_deleted_is_none(tmp_path, monkeypatch):
    held = store.lock_folder(tmp_path)
    opened = safe_open.open_lock_file

    def finishes_meanwhile(path):
        handle = opened(path)
        (tmp_path / "recording.lock").unlink()
        held.close()
        return handle

    monkeypatch.setattr(safe_open, "open_lock_file", finishes_meanwhile)
    with pytest.raises(StorageError, match="another process is recording"):
        store.lock_folder(tmp_path)

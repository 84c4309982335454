"""Copies with another manifest: files stay byte for byte."""

import json

import numpy as np
import pytest

from kd_offline.datasets import ExpertBuffer, annotate, verify
from kd_offline.datasets.edit.rewrite_metadata import rewrite_metadata
from kd_offline.datasets.format import layout
from kd_offline.errors import CorruptDatasetError, StorageError, UsageError
from kd_offline.sealed_json import seal


def test_a_foreign_manifest_keeps_its_id(parent, tmp_path):
    """Another writer may leave out what has a default; the id is of what stands there."""
    path = parent.path / layout.MANIFEST
    document = json.loads(path.read_bytes())
    del document["manifest_digest"], document["environment"]["kwargs"]
    layout.update_identity(document)
    path.write_bytes(seal(document))
    foreign = ExpertBuffer.open(parent.path)
    assert foreign.id != parent.id
    assert annotate(parent.path, tmp_path / "a.zarr", name="mine").id == foreign.id
    assert verify(tmp_path / "a.zarr").ok


def test_a_grid_with_more_rows_than_episodes_is_kept(tmp_path, parent):
    """The new array shares the chunks of the others, even where they are padded."""
    big = parent.array("episodes/length").chunk_rows * 4
    new = {"episodes/split": np.ones(40, np.uint8)}
    path = tmp_path / "r.zarr"
    object.__setattr__(parent.array("episodes/length"), "chunk_rows", big)
    rewrite_metadata(parent, path, {}, new)
    assert json.loads((path / "episodes/split/zarr.json").read_bytes())["chunk_grid"][
        "configuration"
    ] == {"chunk_shape": [big]}


def test_a_damaged_parent_is_refused(parent, tmp_path):
    chunk = parent.path / parent.array("steps/logits").chunk_path(1)
    data = bytearray(chunk.read_bytes())
    data[9] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(CorruptDatasetError, match="steps/logits"):
        annotate(parent.path, tmp_path / "a.zarr", licence="MIT")
    chunk.write_bytes(data[:-1])
    with pytest.raises(CorruptDatasetError, match="steps/logits"):
        annotate(parent.path, tmp_path / "a.zarr", licence="MIT", resume=True)
    assert not (tmp_path / "a.zarr" / layout.MANIFEST).exists()


def test_what_stands_there_is_safe(parent, tmp_path):
    annotate(parent.path, tmp_path / "a.zarr", name="first")
    with pytest.raises(StorageError, match="overwrite=True"):
        annotate(parent.path, tmp_path / "a.zarr", name="second")
    with pytest.raises(UsageError, match="exclude each other"):
        annotate(parent.path, tmp_path / "a.zarr", name="x", resume=True, overwrite=True)
    assert annotate(parent.path, tmp_path / "a.zarr", name="x", overwrite=True).name == "x"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        annotate(parent.path, tmp_path / "notes", name="x", overwrite=True)

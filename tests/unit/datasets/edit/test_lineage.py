"""Datasets that are made of others: never in place, and from formats that are known whole."""

import pytest

from kd_offline.datasets import ExpertBuffer, filter, verify
from kd_offline.datasets.edit.lineage import next_version
from kd_offline.errors import FormatVersionError, StorageError, UsageError


def test_versions():
    assert next_version("1.2.3-rc.1+x", "minor") == "1.3.0"
    assert next_version("1.2.3", "patch") == "1.2.4"


def test_finished_datasets_do_not_change_in_place(parent, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(parent.path)
    for output in (parent.path, parent.path / "inside", parent.path.parent, link):
        for address in (str(parent.path), f"{parent.path}@{parent.id}"):
            with pytest.raises(UsageError, match="never changes in place"):
                filter(address, output, "won == 1", overwrite=True)
    assert verify(parent.path).ok
    filter(parent.path, tmp_path / "f.zarr", "won == 1")
    with pytest.raises(StorageError, match="overwrite=True"):
        filter(parent.path, tmp_path / "f.zarr", "won == 0")
    filter(parent.path, tmp_path / "f.zarr", "won == 0", overwrite=True)
    (step,) = ExpertBuffer.open(tmp_path / "f.zarr").manifest.lineage
    assert step.arguments["where"] == "won == 0"


def test_results_are_folders(parent, tmp_path):
    for output in ("s3://bucket/f.zarr", tmp_path / "f.zarr.zip"):
        with pytest.raises(UsageError, match="push or pack"):
            filter(parent.path, output, "won == 1")


def test_a_newer_format_is_not_rewritten(parent, tmp_path, monkeypatch):
    from kd_offline.datasets.edit import lineage

    monkeypatch.setattr(lineage, "NEWEST_VERSION", (0, 9))
    with pytest.raises(FormatVersionError, match="cannot rewrite without losing"):
        filter(parent.path, tmp_path / "f.zarr", "won == 1")

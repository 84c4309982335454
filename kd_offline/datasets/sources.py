"""Addresses of datasets, and what opens each kind for reading."""

from __future__ import annotations

from pathlib import Path

from kd_offline.datasets.store import Files, Folder


def open_files(address: str | Path) -> Files:
    """Return the files of the dataset at ``address``, without touching any of them."""
    return Folder(Path(address).expanduser())

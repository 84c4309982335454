import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.writing import dataset_files
from kd_offline.testing.factories import environment_spec, tiny_dataset


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: these tests delete very many small files."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A killed process loses nothing that it handed to the system, so the disk may be left out."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 rows, so that small datasets have many of them."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", 16)


@pytest.fixture
def eager_journal(monkeypatch):
    """The journal is written after every block when ``journal_seconds`` is zero."""
    monkeypatch.setattr(dataset_files, "_JOURNAL_SHARE", 0)


@pytest.fixture
def ragged(tmp_path, small_chunks):
    """40 ragged episodes of three agents of different widths, in several chunks."""
    spec = environment_spec((6, 3, 5), (5, 2, 4), state_width=7)
    return tiny_dataset(tmp_path / "ragged.zarr", 40, spec=spec)

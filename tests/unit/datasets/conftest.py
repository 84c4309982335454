import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.writing import dataset_files
from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests import servers


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


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of this test alone, and no credentials."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KD_OFFLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def _nginx(tmp_path_factory):
    if servers.NGINX is None:
        pytest.skip("nginx is not installed")
    with servers.nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def web(_nginx):
    """A web server with an empty access log."""
    _nginx.forget()
    return _nginx


@pytest.fixture(scope="session")
def _s3():
    with servers.s3() as environment:
        yield environment


@pytest.fixture
def s3(_s3, monkeypatch):
    """The environment of an S3 server that has ``s3://bucket``."""
    for name, value in _s3.items():
        monkeypatch.setenv(name, value)
    return _s3


@pytest.fixture(scope="session")
def _azure(tmp_path_factory):
    with servers.azure(tmp_path_factory.mktemp("azure")) as environment:
        yield environment


@pytest.fixture
def azure(_azure, monkeypatch):
    """Azurite, with ``az://bucket``; skipped where it is not installed."""
    for name, value in _azure.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def google(monkeypatch):
    """An emulation of Google's storage of our own, with ``gs://bucket``."""
    with servers.google() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A dataset of some 60 files with several chunks in every steps array; nobody changes it."""
    path = tmp_path_factory.mktemp("whole") / "d.zarr"
    spec = environment_spec((6, 4, 6), (5, 3, 5))
    return tiny_dataset(path, lengths=[25] * 700, spec=spec)


@pytest.fixture
def served(web, whole):
    """The address of a dataset on the web server."""
    target = web.www / "d.zarr"
    if not target.exists():
        import shutil

        shutil.copytree(whole.path, target)
    return f"{web.url}/d.zarr"

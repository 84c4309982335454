import os

import pytest

from kd_offline.testing.factories import environment_spec, tiny_dataset
from tests import servers


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
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

from datetime import timedelta

import pytest

from kd_offline.datasets.storage import remote
from kd_offline.testing.factories import tiny_dataset


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    """No test reads or fills the user's cache, or uses the user's credentials."""


@pytest.fixture
def impatient(monkeypatch, tmp_path):
    """One quick second try, no cache, and an account of the Hub that does not exist."""
    monkeypatch.setitem(remote._RETRY, "max_retries", 1)
    monkeypatch.setitem(remote._RETRY, "backoff", {"init_backoff": timedelta(milliseconds=5)})
    monkeypatch.setenv("KD_OFFLINE_CACHE", "off")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small dataset; nobody changes it."""
    return tiny_dataset(tmp_path_factory.mktemp("small") / "d.zarr")

import pytest

from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A small recording of the bundled expert."""
    path = tmp_path_factory.mktemp("distillation") / "spread.zarr"
    record("mpe/simple_spread_v3", path, episodes=60, batch=60, threads=1, partner=None)
    return path


@pytest.fixture(scope="session")
def buffer(dataset):
    return ExpertBuffer.open(dataset)

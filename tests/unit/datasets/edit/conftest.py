import pytest

from kd_offline.datasets.edit import rewrite
from kd_offline.testing.factories import environment_spec, tiny_dataset


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few episodes, so that small datasets take many."""
    monkeypatch.setattr(rewrite, "BLOCK_BYTES", 4000)


@pytest.fixture
def parent(tmp_path, small_chunks, small_blocks):
    """40 ragged episodes of three agents."""
    return tiny_dataset(tmp_path / "parent.zarr", 40, spec=environment_spec((6, 3, 5), (5, 2, 4)))

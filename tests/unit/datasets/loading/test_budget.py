"""Memory stays within the budget that was given."""

import tracemalloc

import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.plan import Windows
from kd_offline.errors import UsageError
from kd_offline.testing.factories import tiny_dataset

ARRAYS = ["steps/obs", "steps/actions", "steps/truncated", "final/value", "episodes/seed"]


def test_memory_stays_within_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 256)
    buffer = tiny_dataset(tmp_path / "d.zarr", lengths=[25] * 2000, hidden=16)
    names = ["steps/obs", "steps/embedding", "steps/logits"]
    size = sum(buffer.read(name).nbytes for name in names)
    loader = Loader.open(buffer, names, 16, windows=Windows(10), memory_mb=2)
    assert size > 10e6
    tracemalloc.start()
    try:
        for batch in loader.batches(epochs=2):
            del batch
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5e6  # with batches, orders and files


def test_the_least_budget_that_is_named_works(ragged):
    with pytest.raises(UsageError) as caught:
        Loader.open(ragged, ARRAYS, 4, memory_mb=0.01)
    least = float(str(caught.value).split("at least ")[1].split(" MB")[0])
    assert len(list(Loader.open(ragged, ARRAYS, 4, memory_mb=least).batches(epochs=1))) == 10

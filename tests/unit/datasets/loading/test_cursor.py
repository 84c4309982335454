"""Chunks are decoded ahead, once an epoch, and no thread outlives its iteration."""

import threading
from collections import Counter
from collections.abc import Generator
from typing import ClassVar

import pytest

from kd_offline.datasets.format import layout
from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.sampler import Position
from kd_offline.datasets.reading import reader
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.datasets.storage.store import Folder
from kd_offline.errors import CorruptDatasetError
from kd_offline.testing.factories import tiny_dataset

ARRAYS = ["steps/obs", "steps/actions", "steps/truncated", "final/value", "episodes/seed"]


class CountingFolder(Folder):
    """A folder that is read from several threads and counts what is asked for."""

    reads: ClassVar[Counter[str]] = Counter()

    def read(self, path, listed=None):
        self.reads[path] += 1
        return super().read(path, listed)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """600 short episodes in chunks of 64 rows, behind files that count."""
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 64)
    monkeypatch.setattr(layout, "MIN_CHUNK_ROWS", 64)
    path = tiny_dataset(tmp_path / "d.zarr", lengths=[4, 5, 6] * 200).path
    monkeypatch.setattr(reader, "open_files", CountingFolder)
    return ExpertBuffer.open(path)


def reader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("dataset-reader")]


@pytest.mark.parametrize("memory_mb", [None, 0.06, 0.1])
def test_each_chunk_is_read_once_an_epoch(counted, memory_mb):
    CountingFolder.reads.clear()
    loader = Loader.open(counted, ARRAYS, 4, windows=Windows(3), memory_mb=memory_mb)
    names = [name for name in ARRAYS if name.startswith("steps/")]
    for epoch in range(3):
        if epoch or loader.streams:
            CountingFolder.reads.clear()
        for _ in loader.batches(Position(epoch), epochs=1):
            pass
        reads = {p: n for p, n in CountingFolder.reads.items() if p.startswith("steps/")}
        if loader.streams or epoch == 0:
            assert set(reads.values()) == {1}
            assert {p for p in reads if "/c/" in p} == {
                counted.array(name).chunk_path(chunk) for name in names for chunk in range(47)
            }
        else:
            assert not reads


def test_only_the_arrays_asked_for_are_read(counted):
    CountingFolder.reads.clear()
    loader = Loader.open(counted, ["steps/actions"], 4, memory_mb=0.01)
    list(loader.batches(epochs=1))
    assert {p.split("/c/")[0] for p in CountingFolder.reads} == {
        "steps/actions",
        "episodes/length",
        "episodes/offset",
    }


@pytest.mark.parametrize("memory_mb", [None, 0.02])
def test_damage_is_raised_and_leaves_no_thread(ragged, memory_mb):
    chunk = ragged.path / "steps/obs/c/11/0/0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(CorruptDatasetError, match=r"steps/obs rows 176 to 191"):
        for _ in Loader.open(ragged, ARRAYS, 4, memory_mb=memory_mb).batches(epochs=1):
            pass
    assert not reader_threads()


@pytest.mark.parametrize("how", ["close", "break", "interrupt"])
def test_an_early_end_leaves_no_thread(ragged, how):
    loader = Loader.open(ragged, ARRAYS, 4, memory_mb=0.02)
    stream = loader.batches()
    next(stream)
    assert reader_threads()
    assert isinstance(stream, Generator)
    if how == "close":
        stream.close()
    elif how == "break":
        del stream
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    assert not reader_threads()

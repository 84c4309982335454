from itertools import islice

import numpy as np
import pytest
import torch

from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.mixing import Mixture
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.sampler import Position
from kd_offline.datasets.loading.torch_loading import TensorBatches, data_loader, tensors

ARRAYS = ["steps/obs", "steps/embedding", "episodes/seed"]


@pytest.fixture
def loader(ragged):
    return Loader.open(ragged, ARRAYS, 5, windows=Windows(6))


def same(one, other):
    assert one.following == other.following
    for name, values in one.arrays.items():
        assert np.array_equal(values.numpy(), other[name])
    assert np.array_equal(one.valid.numpy(), other.valid)
    assert np.array_equal(one.episodes.numpy(), other.episodes)


def test_tensors_share_the_memory_of_the_batch(loader):
    batch = next(loader.batches())
    converted = tensors(batch)
    for name in ARRAYS:
        assert converted[name].data_ptr() == batch[name].ctypes.data
    assert converted["steps/obs"].dtype == torch.float32
    assert converted["steps/embedding"].dtype == torch.float16
    assert converted["episodes/seed"].dtype == torch.uint64
    assert converted.valid.dtype == torch.bool
    assert len(converted.to("cpu")) == 5


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(loader, workers):
    start = Position(0, len(loader) - 3)
    got = list(data_loader(loader, start, epochs=2, workers=workers))
    want = list(loader.batches(start, epochs=2))
    assert len(got) == len(want) == len(loader) + 3
    for one, other in zip(got, want, strict=True):
        same(one, other)


def test_a_stream_in_a_worker_continues_where_it_was_left(ragged):
    loader = Loader.open(ragged, ARRAYS, 5, windows=Windows(6), memory_mb=0.03)
    assert loader.streams
    want = list(islice(loader.batches(), 30))
    first = list(islice(data_loader(loader, workers=2), 11))
    rest = list(islice(data_loader(loader, first[-1].following, workers=1), 19))
    for one, other in zip(first + rest, want, strict=True):
        same(one, other)


def test_mixtures(loader):
    mixture = Mixture([loader, loader], [1, 2], 6)
    for one, other in zip(islice(data_loader(mixture, workers=2), 6), mixture, strict=False):
        same(one, other)
        assert np.array_equal(one.datasets.numpy(), other.datasets)


def test_it_is_an_iterable_dataset(loader):
    assert isinstance(TensorBatches(loader), torch.utils.data.IterableDataset)
    assert len(list(TensorBatches(loader, epochs=1))) == len(loader)

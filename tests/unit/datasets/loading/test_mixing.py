from itertools import islice
from typing import Any

import numpy as np
import pytest

from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.mixing import Mixture
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.sampler import Position
from kd_offline.errors import MismatchError, UsageError
from kd_offline.testing.factories import environment_spec, full_mask, tiny_dataset

ARRAYS = ["steps/obs", "steps/actions", "episodes/seed", "masks/full"]


def opened(tmp_path, number, memory_mb=None, **options):
    path = tmp_path / f"{number}.zarr"
    buffer = tiny_dataset(path, 20 + 10 * number, seed=number)
    given = {"arrays": ARRAYS, "batch": 1, "windows": Windows(6), "seed": number} | options
    return Loader.open(buffer, memory_mb=memory_mb, **given)


@pytest.fixture
def pair(tmp_path, small_chunks):
    return [opened(tmp_path, 0), opened(tmp_path, 1, memory_mb=0.03)]


def same(one, other):
    assert np.array_equal(one.datasets, other.datasets)
    assert np.array_equal(one.episodes, other.episodes)
    assert np.array_equal(one["steps/obs"], other["steps/obs"])
    assert one.following == other.following


def test_every_batch_has_the_shares_and_every_dataset_its_own_epochs(pair):
    mixture = Mixture(pair, [3, 1], 10, seed=5)
    assert pair[1].streams
    counts: list[Any] = []
    order: list[list[Any]] = [[], []]
    for batch in islice(mixture.batches(), 60):
        counts.append(np.bincount(batch.datasets, minlength=2))
        for number, loader in enumerate(pair):
            here = batch.datasets == number
            seeds = loader.buffer.read("episodes/seed")[batch.episodes[here]]
            assert np.array_equal(batch["episodes/seed"][here], seeds)
            order[number] += zip(batch.episodes[here], batch.first[here], strict=True)
    taken = np.array(counts)
    assert (taken.sum(1) == 10).all()
    assert set(taken[:, 0]) == {7, 8}
    assert abs(taken[:, 0].mean() - 7.5) < 0.2
    for number, loader in enumerate(pair):
        alone = [
            (batch.episodes[0], batch.first[0])
            for batch in islice(loader.batches(), len(order[number]))
        ]
        assert order[number] == alone


def test_it_is_a_function_of_seed_and_step(pair):
    mixture = Mixture(pair, [0.2, 0.8], 7, seed=1)
    stream = list(islice(mixture.batches(), 30))
    for step in (0, 1, 13):
        again = Mixture(pair, [1, 4], 7, seed=1).batches(Position(0, step))
        for one, other in zip(islice(again, 6), stream[step:], strict=False):
            same(one, other)
    for index in range(3):
        share = mixture.batches(share=(index, 3))
        for one, other in zip(islice(share, 10), stream[index::3], strict=True):
            same(one, other)
    other = next(Mixture(pair, [1, 4], 7, seed=2).batches(Position(0, 3)))
    assert not np.array_equal(other.episodes, stream[3].episodes)


def test_small_weights_leave_a_dataset_out_of_most_batches(pair):
    batches = list(islice(Mixture(pair, [999, 1], 4).batches(), 20))
    assert sum((batch.datasets == 1).sum() for batch in batches) <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": Windows(5)}, r"length of sequences \(6 and 5\)"),
        ({"arrays": ["steps/obs"]}, "episodes/seed, masks/full, steps/actions"),
    ],
)
def test_loaders_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(MismatchError, match=message):
        Mixture([opened(tmp_path, 0), opened(tmp_path, 1, **options)], [1, 1], 4)


def test_datasets_that_do_not_fit(tmp_path):
    spec = environment_spec()
    narrow = environment_spec((6, 6, 6), (5, 5, 4))
    others = {
        "action_counts": tiny_dataset(tmp_path / "o.zarr", spec=narrow),
        "masks/full": tiny_dataset(tmp_path / "m.zarr", masks={"full": ~full_mask(spec)}),
    }
    mine = opened(tmp_path, 1)
    for message, buffer in others.items():
        other = Loader.open(buffer, ARRAYS, 1, windows=Windows(6))
        with pytest.raises(MismatchError, match=message):
            Mixture([mine, other], [1, 1], 4)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")]])
def test_weights_that_are_none(pair, weights):
    with pytest.raises(UsageError, match="a weight above 0 for each of its 2 datasets"):
        Mixture(pair, weights, 4)


def test_positions_that_are_none(pair):
    with pytest.raises(UsageError, match="one endless epoch"):
        next(Mixture(pair, [1, 1], 4).batches(Position(1, 0)))


def test_a_loader_with_a_rank_is_refused(tmp_path, small_chunks):
    divided = opened(tmp_path, 0, rank=0, world=2, batch=2)
    with pytest.raises(UsageError, match="a mixture is not divided among processes"):
        Mixture([divided], [1], 10)


def test_full_observations_matter_where_they_are_loaded(tmp_path):
    specs = [environment_spec(full_widths=widths) for widths in ((8, 8, 8), ())]
    buffers = [tiny_dataset(tmp_path / f"{k}.zarr", spec=spec) for k, spec in enumerate(specs)]
    loaders = [Loader.open(buffer, ["steps/obs"], batch=2) for buffer in buffers]
    assert len(next(iter(Mixture(loaders, [1, 1], 4).batches())).datasets) == 4
    sighted = Loader.open(buffers[0], ["steps/obs", "steps/obs_full"], batch=2)
    with pytest.raises(MismatchError, match="differ in full, steps/obs_full"):
        Mixture([sighted, loaders[1]], [1, 1], 4)

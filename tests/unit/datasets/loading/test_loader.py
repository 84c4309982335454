"""Batches: every sequence once an epoch, in an order that can be told and continued."""

import json
from collections import Counter
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest

from kd_offline.datasets.loading.loader import Loader
from kd_offline.datasets.loading.plan import Windows
from kd_offline.datasets.loading.sampler import Position, epoch_order
from kd_offline.errors import MissingArrayError, UsageError
from kd_offline.testing.factories import environment_spec, tiny_dataset

ARRAYS = ["steps/obs", "steps/actions", "steps/truncated", "final/value", "episodes/seed"]


CUTS = [None, Windows(7), Windows(7, 3), Windows(30)]


MEMORY = [None, 0.02, 0.04, 100]  # streamed at the two in the middle


def same(one, other):
    assert one.following == other.following
    assert np.array_equal(one.episodes, other.episodes)
    assert np.array_equal(one.first, other.first)
    assert np.array_equal(one.valid, other.valid)
    for name, values in one.arrays.items():
        assert np.array_equal(values, other[name])


@pytest.mark.parametrize("memory_mb", MEMORY)
@pytest.mark.parametrize("windows", CUTS)
def test_every_sequence_comes_once_an_epoch_with_its_values(ragged, windows, memory_mb):
    loader = Loader.open(ragged, ARRAYS, 5, windows=windows, memory_mb=memory_mb)
    assert loader.streams == (memory_mb in MEMORY[1:3])
    offset, length = ragged.episodes("offset"), ragged.episodes("length")
    obs, value, seed = (ragged.read(name) for name in ("steps/obs", "final/value", "episodes/seed"))
    for epoch in range(2):
        seen: Counter[tuple[int, int]] = Counter()
        for batch in loader.batches(Position(epoch), epochs=1):
            assert batch["steps/actions"].shape == (len(batch), loader.length, 3)
            assert (
                batch["steps/truncated"].shape == batch.valid.shape == (len(batch), loader.length)
            )
            assert np.array_equal(batch["final/value"], value[batch.episodes])
            assert np.array_equal(batch["episodes/seed"], seed[batch.episodes])
            for i, (episode, first) in enumerate(zip(batch.episodes, batch.first, strict=True)):
                seen[episode, first] += 1
                stop = min(first + loader.length, length[episode])
                count = stop - first
                assert batch.valid[i].tolist() == [True] * count + [False] * (loader.length - count)
                want = obs[offset[episode] + first : offset[episode] + stop]
                assert np.array_equal(batch["steps/obs"][i, :count], want)
                assert not batch["steps/obs"][i, count:].any()
        assert set(seen.values()) == {1}
        assert len(seen) == loader.sequences
        covered = {
            (episode, first + t)
            for episode, first in seen
            for t in range(min(loader.length, length[episode] - first))
        }
        assert len(covered) == ragged.n_steps


@pytest.mark.parametrize("memory_mb", MEMORY)
def test_the_order_is_a_function_of_seed_epoch_and_budget(ragged, memory_mb):
    def epoch(seed, number, threads):
        loader = Loader.open(
            ragged, ["steps/obs"], 7, seed=seed, memory_mb=memory_mb, threads=threads
        )
        stream = loader.batches(Position(number), epochs=1)
        return tuple(np.concatenate([batch.episodes for batch in stream]).tolist())

    orders = {(s, e): epoch(s, e, threads=1) for s in range(2) for e in range(3)}
    assert len(set(orders.values())) == 6
    assert all(sorted(order) == list(range(40)) for order in orders.values())
    assert epoch(1, 2, threads=4) == orders[1, 2]


@pytest.mark.parametrize("memory_mb", [None, 100])
def test_where_everything_fits_the_order_is_the_samplers(ragged, memory_mb):
    chosen = ragged.split("train")
    loader = Loader.open(ragged, ["steps/obs"], 9, split="train", seed=3, memory_mb=memory_mb)
    got = np.concatenate([batch.episodes for batch in loader.batches(Position(4), epochs=1)])
    assert np.array_equal(got, epoch_order(chosen, 3, 4))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("memory_mb", MEMORY[:3])
def test_it_continues_exactly_from_a_saved_position(ragged, memory_mb, drop_last):
    def fresh():
        return Loader.open(
            ragged, ARRAYS, 6, windows=Windows(5, 2), memory_mb=memory_mb, drop_last=drop_last
        )

    loader = fresh()
    stream = list(loader.batches(epochs=3))
    assert len(stream) == 3 * len(loader)
    assert {len(batch) for batch in stream} == ({6} if drop_last else {6, loader.sequences % 6})
    for index in (0, 3, len(loader) - 2, len(loader) - 1, len(loader) + 5):
        saved = json.dumps(asdict(stream[index].following))
        again = fresh().batches(Position(**json.loads(saved)))
        for one, other in zip(islice(again, 4), stream[index + 1 :], strict=False):
            same(one, other)
        again.close()


@pytest.mark.parametrize("memory_mb", MEMORY[:3])
def test_shares_are_disjoint_and_together_everything(ragged, memory_mb):
    loader = Loader.open(ragged, ["steps/obs"], 4, memory_mb=memory_mb)
    start = Position(1, 3)
    every = list(loader.batches(start, epochs=2))
    for count in (2, 3):
        for index in range(count):
            share = loader.batches(start, epochs=2, share=(index, count))
            for one, other in zip(share, every[index::count], strict=True):
                same(one, other)


def test_explicit_episodes_without_shuffling(ragged):
    chosen = np.array([3, 7, 20, 21, 39])
    loader = Loader.open(ragged, ["steps/obs"], 2, episodes=chosen, shuffle=False)
    assert [b.episodes.tolist() for b in loader.batches(epochs=1)] == [[3, 7], [20, 21], [39]]
    arrays, valid = ragged.padded(["steps/obs"], chosen)
    got = np.concatenate([b["steps/obs"] for b in loader.batches(epochs=1)])
    assert np.array_equal(got, arrays["steps/obs"])
    assert loader.length == valid.shape[1]


def test_streams_without_shuffling_are_in_the_order_of_the_file(ragged):
    whole, small = (
        Loader.open(ragged, ARRAYS, 7, split="train", shuffle=False, memory_mb=memory_mb)
        for memory_mb in (None, 0.02)
    )
    assert small.streams
    for one, other in zip(small.batches(epochs=2), whole.batches(epochs=2), strict=True):
        same(one, other)


def test_masks(tmp_path, small_chunks):
    spec = environment_spec()
    masks = {
        "fixed": np.ones((3, 6), bool),
        "random": np.random.default_rng(0).random((5, 3, 6)) < 0.5,
    }
    buffer = tiny_dataset(tmp_path / "d.zarr", 5, spec=spec, masks=masks)
    loader = Loader.open(buffer, ["steps/obs", "masks/fixed", "masks/random"], 2)
    for batch in loader.batches(epochs=1):
        assert np.array_equal(batch["masks/fixed"], masks["fixed"])
        assert np.array_equal(batch["masks/random"], masks["random"][batch.episodes])


def test_batches_are_the_receivers(ragged):
    loader = Loader.open(ragged, ["steps/obs", "steps/actions"], 5)
    for batch in loader.batches(epochs=1):
        batch["steps/obs"][:] = np.nan
    assert all(np.isfinite(batch["steps/obs"]).all() for batch in loader.batches(epochs=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_mb": 0.001}, "cannot hold two chunks .* give at least 0.0"),
        ({"split": "train", "episodes": np.array([1])}, "exclude each other"),
        ({"episodes": np.array([1, 1])}, "none twice"),
        ({"episodes": np.array([40])}, "each from 0 to 39"),
        ({"episodes": np.array([], int)}, "at least one episode"),
        ({"batch": 0}, "at least one"),
        ({"batch": 41, "drop_last": True}, "make no batch of 41"),
        ({"arrays": ["final/obs"]}, "at least one array of steps"),
    ],
)
def test_what_cannot_be_loaded(ragged, options, message):
    given = {"arrays": ["steps/obs"], "batch": 4} | options
    with pytest.raises(UsageError, match=message):
        Loader.open(ragged, **given)


def test_unknown_arrays_and_positions(ragged):
    with pytest.raises(MissingArrayError, match="did you mean 'steps/logits'"):
        Loader.open(ragged, ["logits"], 4)
    loader = Loader.open(ragged, ["steps/obs"], 4)
    for position in (Position(0, 10), Position(-1, 0), Position(0, -1)):
        with pytest.raises(UsageError, match="an epoch has batches 0 to 9"):
            next(loader.batches(position))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("memory_mb", [None, 0.02])
def test_the_parts_of_all_ranks_are_the_same_batches_for_any_world(ragged, memory_mb, world):
    settings = {"windows": Windows(7, 3), "memory_mb": memory_mb, "drop_last": True}
    whole = Loader.open(ragged, ARRAYS, 8, **settings)
    ranks = [Loader.open(ragged, ARRAYS, 8, **settings, rank=r, world=world) for r in range(world)]
    streams = [rank.batches(Position(0, 2), epochs=2) for rank in ranks]
    for batch, *parts in zip(whole.batches(Position(0, 2), epochs=2), *streams, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert {part.sequences_of_all for part in parts} == {None if world == 1 else 8}
        for name, values in batch.arrays.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), values)
        assert np.array_equal(np.concatenate([part.episodes for part in parts]), batch.episodes)
        assert {part.following for part in parts} == {batch.following}


def test_a_rank_that_gets_nothing_is_refused(ragged):
    with pytest.raises(UsageError, match=r"no rank 2 of 2: ranks are counted from 0"):
        Loader.open(ragged, ARRAYS, 8, rank=2, world=2)
    with pytest.raises(UsageError, match=r"a batch has 2 sequences, so some of 3 ranks get none"):
        Loader.open(ragged, ARRAYS, 2, world=3)
    with pytest.raises(UsageError, match=r"the last batch of an epoch has 1 sequences.*drop_last"):
        Loader.open(ragged, ARRAYS, 39, world=2)
    assert len(Loader.open(ragged, ARRAYS, 39, world=2, drop_last=True)) == 1

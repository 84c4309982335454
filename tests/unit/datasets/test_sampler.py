from itertools import islice

import numpy as np
import pytest

from kd_offline.datasets.sampler import (
    Position,
    assign_split,
    batches,
    batches_per_epoch,
    epoch_order,
)
from kd_offline.errors import UsageError

EPISODES = np.array([2, 3, 5, 7, 11, 13, 17])


def test_an_order_is_a_function_of_seed_and_epoch():
    orders = {
        (seed, epoch): tuple(epoch_order(EPISODES, seed, epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert all(sorted(order) == list(EPISODES) for order in orders.values())
    assert len(set(orders.values())) == 9
    assert tuple(epoch_order(EPISODES, 1, 2)) == orders[1, 2]


@pytest.mark.parametrize("drop_last", [True, False])
def test_every_epoch_holds_every_episode_once(drop_last):
    count = batches_per_epoch(7, 3, drop_last=drop_last)
    taken = list(islice(batches(EPISODES, 3, seed=4, drop_last=drop_last), 2 * count))
    for epoch in (0, 1):
        part = [chosen for position, chosen in taken if position.epoch == epoch]
        assert len(part) == count
        assert len(set(np.concatenate(part))) == (6 if drop_last else 7)


def test_continuing_from_any_position_gives_the_same_batches():
    stream = list(islice(batches(EPISODES, 3, seed=4), 8))
    for index, (position, _) in enumerate(stream):
        for again, want in zip(batches(EPISODES, 3, 4, position), stream[index:], strict=False):
            assert again[0] == want[0]
            assert np.array_equal(again[1], want[1])


@pytest.mark.parametrize(("count", "size"), [(0, 3), (2, 0)])
def test_no_batches(count, size):
    with pytest.raises(UsageError):
        next(batches(EPISODES[:count], size, 0, Position()))


@pytest.mark.parametrize(
    ("episodes", "share", "held"),
    [(1, 0.5, 0), (2, 0.01, 1), (100, 0.05, 5), (100, 0.0, 0), (3, 0.99, 2)],
)
def test_split_sizes(episodes, share, held):
    assert assign_split(episodes, share, 0).sum() == held


def test_split_is_seeded():
    assert np.array_equal(assign_split(100, 0.1, 3), assign_split(100, 0.1, 3))
    assert not np.array_equal(assign_split(100, 0.1, 3), assign_split(100, 0.1, 4))

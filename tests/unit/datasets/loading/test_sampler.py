import numpy as np
import pytest

from kd_offline.datasets.loading.sampler import batches_per_epoch, epoch_order
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


@pytest.mark.parametrize(
    ("sequences", "size", "drop_last", "count"),
    [(7, 3, False, 3), (7, 3, True, 2), (6, 3, True, 2), (0, 3, False, 0), (2, 3, True, 0)],
)
def test_the_last_batch_of_an_epoch_is_short_or_dropped(sequences, size, drop_last, count):
    assert batches_per_epoch(sequences, size, drop_last=drop_last) == count


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one episode, got 0"):
        batches_per_epoch(2, 0)

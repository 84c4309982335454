import numpy as np
import pytest

from kd_offline.datasets.format.splits import assign_split


@pytest.mark.parametrize(
    ("episodes", "share", "held"),
    [(1, 0.5, 0), (2, 0.01, 1), (100, 0.05, 5), (100, 0.0, 0), (3, 0.99, 2)],
)
def test_split_sizes(episodes, share, held):
    assert assign_split(episodes, share, 0).sum() == held


def test_split_is_seeded():
    assert np.array_equal(assign_split(100, 0.1, 3), assign_split(100, 0.1, 3))
    assert not np.array_equal(assign_split(100, 0.1, 3), assign_split(100, 0.1, 4))

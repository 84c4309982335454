"""Nearest steps are exact, and the same in every batch."""

import numpy as np

from kd_offline.datasets.reading import nearest
from kd_offline.datasets.reading.nearest import NearestSteps


def test_nearest_first_with_squared_distances():
    points = NearestSteps(np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))
    found = points.find(np.array([[0.0, 0.0], [3.0, 3.0]]), 2)
    assert found.place.tolist() == [[0, 2], [1, 2]]
    assert found.distance.tolist() == [[0.0, 1.0], [1.0, 13.0]]


def test_of_equal_distances_the_first_are_taken():
    points = NearestSteps(np.zeros((9, 3)))
    assert points.find(np.ones((2, 3)), 4).place.tolist() == [[0, 1, 2, 3]] * 2


def test_all_points_where_there_are_fewer_than_asked_for():
    assert NearestSteps(np.arange(3.0)[:, None]).find(np.array([[2.1]]), 9).place.tolist() == [
        [2, 1, 0]
    ]


def test_distances_are_those_of_plain_arithmetic_in_whatever_parts(monkeypatch):
    rng = np.random.default_rng(0)
    points, queries = rng.standard_normal((50, 7)), rng.standard_normal((40, 7))
    whole = NearestSteps(points).find(queries, 5)
    apart = np.square(queries[:, None] - points).sum(-1)
    np.testing.assert_allclose(whole.distance, np.sort(apart, 1)[:, :5], atol=0.05)
    monkeypatch.setattr(nearest, "_DISTANCES", 120)
    for first, second in zip(whole, NearestSteps(points).find(queries, 5), strict=True):
        np.testing.assert_array_equal(first, second)


def test_values_beyond_the_grid_are_put_at_its_edge():
    found = NearestSteps(np.array([[1e30], [-1e30]])).find(np.array([[1e38]]), 1)
    assert found.place.tolist() == [[0]]
    assert found.distance.tolist() == [[0.0]]


def test_no_query_gives_no_neighbour():
    found = NearestSteps(np.zeros((3, 2))).find(np.zeros((0, 2)), 2)
    assert found.place.shape == (0, 2)

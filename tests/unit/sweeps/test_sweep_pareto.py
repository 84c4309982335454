import pytest

from kd_offline.sweeps.sweep import dominates, front


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1, 1), (1, 2), True),
        ((1, 1), (2, 2), True),
        ((1, 2), (2, 1), False),
        ((1, 1), (1, 1), False),
        ((2, 1), (1, 1), False),
    ],
)
def test_domination(a, b, expected):
    assert dominates(a, b) is expected


def test_front_by_hand():
    points = [(-0.9, 10), (-0.8, 5), (-0.8, 6), (-0.9, 10), (-0.5, 5), (-0.1, 1)]
    assert front(points) == [True, True, False, True, False, True]

from pathlib import Path

import numpy as np
import pytest

from kd_offline.datasets.convert.foreign_arrays import (
    LegalityCount,
    boolean_array,
    discrete_actions,
    find_mask_name,
    is_one_hot,
    loses_precision,
    with_executed_legal,
)
from kd_offline.datasets.convert.interchange import ForeignError

FILE = Path("theirs.hdf5")


def test_whole_numbers_of_any_type_are_discrete_actions():
    for dtype in (np.int8, np.uint16, np.float32, np.float64):
        actions = discrete_actions(FILE, "its actions", np.array([0, 3, 2], dtype))
        assert actions.dtype == np.int64
        assert actions.tolist() == [0, 3, 2]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([0.5], "continuous"), ([np.nan], "continuous"), ([2.0**25], "no number")],
)
def test_other_numbers_are_no_actions(values, reason):
    with pytest.raises(ForeignError, match=reason):
        discrete_actions(FILE, "its actions", np.array(values))


@pytest.mark.parametrize(
    ("rows", "one_hot"),
    [
        ([[0, 1, 0], [1, 0, 0]], True),
        ([[0, 1, 1]], False),
        ([[0, 0, 0]], False),
        ([[0, 2, 0]], False),
        ([[1]], False),  # a column of ones is an action that is always 1
    ],
)
def test_one_hot_rows_have_a_single_one(rows, one_hot):
    assert is_one_hot(np.array(rows)) == one_hot


def test_flags_are_zeros_and_ones():
    assert boolean_array(FILE, "dones", np.array([0.0, 1.0])).tolist() == [False, True]
    with pytest.raises(ForeignError, match=r"dones hold 2, where true or false is expected"):
        boolean_array(FILE, "dones", np.array([0, 2]))


def test_a_mask_by_which_most_actions_are_illegal_is_refused():
    count = LegalityCount("legals")
    actions = np.array([0, 1, 1, 1])
    legal = np.array([[True, False]] * 4)
    count.add(legal, actions)
    assert (count.executed, count.illegal) == (4, 3)
    with pytest.raises(ForeignError, match="3 of 4 executed actions are illegal"):
        count.check(FILE)
    assert with_executed_legal(legal, actions).tolist() == [[True, False]] + [[True, True]] * 3


def test_a_mask_is_known_by_its_name():
    assert find_mask_name(["obs", "legals", "rewards"]) == "legals"
    assert find_mask_name(["obs"]) is None


def test_float32_cannot_hold_every_number():
    assert loses_precision(np.array([2**24 + 1]))
    assert not loses_precision(np.array([0.5, 2**24]))

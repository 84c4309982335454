import numpy as np
import pytest

from kd_offline.recording.comparison import Comparison
from kd_offline.recording.episodes import choose, parts
from kd_offline.testing.factories import environment_spec, tiny_dataset

SPEC = environment_spec((6, 3), (4, 2))
ALL = np.ones(2, bool)
EPISODES = np.array([4, 9])


def compare(name, got, stored, counts=ALL, step=0, tolerance=0.1):
    comparison = Comparison(SPEC, tolerance)
    comparison.add(name, np.array(got), np.array(stored), counts, EPISODES, step)
    return comparison


def test_the_tolerance_is_absolute_and_relative():
    got, stored = [[1.0, 100.0], [0.0, 0.0]], [[1.19, 110.0], [0.09, 0.12]]
    found = compare("steps/reward", got, stored).arrays()["steps/reward"]
    assert (found.ok, found.differing, found.outside) == (False, 2, 1)
    assert found.max_error == pytest.approx(10.0)


def test_integers_and_booleans_have_no_tolerance():
    assert not compare("episodes/won", [1, 0], [1, 1], step=None).arrays()["episodes/won"].ok
    first = compare("steps/alive", [[True, True]] * 2, [[True, True], [True, False]]).first
    assert (first.episode, first.agent, first.got, first.stored) == (9, "agent_1", True, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_differ(bad):
    stored = np.zeros((2, 2))
    stored[1, 0] = bad
    comparison = compare("steps/reward", np.zeros((2, 2)), stored)
    assert comparison.arrays()["steps/reward"].max_error is None
    assert comparison.first.stored == str(bad)
    assert "came out as 0, but the dataset holds" in str(comparison.first)


def test_what_does_not_count_does_not_differ():
    counts = np.array([[True, False], [True, True]])
    stored = np.zeros((2, 2, 6))
    stored[0, 1] = np.nan
    comparison = compare("steps/obs", np.zeros((2, 2, 6)), stored, counts)
    assert comparison.exact
    assert comparison.first is None


def test_the_first_is_of_the_lowest_episode_then_step_then_array():
    comparison = Comparison(SPEC, 0.0)
    one, zero = np.ones((2, 2)), np.zeros((2, 2))
    late = np.array([False, True])
    comparison.add("steps/alive", zero, zero, ALL, EPISODES, 0)
    comparison.add("steps/reward", one, zero, late, EPISODES, 0)
    assert (comparison.first.episode, comparison.first.step) == (9, 0)
    comparison.add("final/value", one, zero, ALL, EPISODES)
    assert (comparison.first.episode, comparison.first.array) == (4, "final/value")
    comparison.add("steps/reward", one, zero, ALL, EPISODES, 3)
    comparison.add("steps/alive", one, zero, ALL, EPISODES, 3)
    assert (comparison.first.step, comparison.first.array) == (3, "steps/alive")
    comparison.add("steps/alive", one, zero, ALL, EPISODES - 4, 9)
    assert (comparison.first.episode, comparison.first.step) == (0, 9)


def test_entries_have_names():
    def entry(name, width, index):
        got = np.zeros((2, 2, width))
        stored = got.copy()
        stored[0][index] = 1
        return compare(name, got, stored).first.entry

    assert entry("steps/obs", 6, (0, 1)) == "own 1"
    assert entry("steps/obs", 6, (1, 2)) == "others 0"
    assert entry("steps/obs", 6, (1, 4)) == "padding"
    assert entry("steps/logits", 4, (0, 3)) == "a3"
    assert entry("steps/available_actions", 4, (1, 2)) == "padding"
    assert entry("steps/embedding", 4, (1, 2)) == "entry 2"


def test_parts_hold_every_chosen_episode_once(tmp_path):
    buffer = tiny_dataset(tmp_path / "d", 10)
    chosen = choose(buffer, 8, seed=1)
    assert len(np.unique(chosen)) == 8
    assert (np.diff(chosen) > 0).all()
    found = list(parts(buffer, ["steps/reward", "episodes/seed"], chosen, most=3))
    assert [len(part.episodes) for part in found] == [3, 3, 2]
    seeds = np.concatenate([part.arrays["episodes/seed"] for part in found])
    np.testing.assert_array_equal(seeds, buffer.episodes("seed")[chosen])
    for part in found:
        assert part.arrays["steps/reward"].shape == (len(part.episodes), part.lengths.max(), 3)

import numpy as np
import pytest

from kd_offline.datasets.format.layout import ACTION_SOURCES
from kd_offline.distributions.categorical import Categorical
from kd_offline.recording import noise
from kd_offline.schemas.record_recipe import noise_levels
from kd_offline.seeding import episode_seeds
from kd_offline.types import View

B, N, A = 4000, 3, 5
SEEDS = episode_seeds(0, 0, B)
LOGITS = np.tile(np.array([5.0, 0, 0, 0, 0], np.float32), (B, N, 1))


def view(available=None, alive=None):
    return View(
        obs=np.zeros((B, N, 2), np.float32),
        state=np.zeros((B, 6), np.float32),
        available_actions=np.ones((B, N, A), bool) if available is None else available,
        alive=np.ones((B, N), bool) if alive is None else alive,
    )


def choose(level, step=0, **seen):
    levels, now = np.full(B, level, np.float32), view(**seen)
    return noise.perturbed(SEEDS, levels)(step, now, Categorical(LOGITS, now.available_actions))


def test_levels_follow_the_mixture_and_the_seed_alone():
    mixture = noise_levels("0:0.5,0.25:0.3,1:0.2")
    levels = noise.episode_levels(SEEDS, mixture)
    shares = [np.mean(levels == np.float32(x)) for x in (0, 0.25, 1)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.03)
    np.testing.assert_array_equal(noise.episode_levels(SEEDS[7:9], mixture), levels[7:9])
    assert (noise.episode_levels(SEEDS, ()) == 0).all()


def test_without_noise_everything_is_the_expert():
    choice = choose(0.0)
    assert choice.source is not None
    assert (choice.source == ACTION_SOURCES["expert"]).all()
    p = np.exp(5) / (np.exp(5) + 4)
    expected = np.where(choice.actions == 0, np.log(p), np.log((1 - p) / 4))
    np.testing.assert_allclose(choice.logprob, expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.25, 1.0])
def test_one_agent_at_a_time_at_the_stated_rate(level):
    choice = choose(level, step=3)
    assert choice.source is not None
    struck = choice.source == ACTION_SOURCES["noise"]
    assert struck.sum(1).max() == 1
    assert struck.any(1).mean() == pytest.approx(level, abs=0.03)
    np.testing.assert_allclose(struck.mean(0), level / N, atol=0.03)
    random = np.bincount(choice.actions[struck], minlength=A) / struck.sum()
    np.testing.assert_allclose(random, 0.2, atol=0.05)


def test_log_probability_is_that_of_the_mixture():
    """Over many draws the actions come as often as the recorded probabilities say."""
    choice = choose(0.6, step=1)
    assert choice.logprob is not None
    for action in range(A):
        mine = choice.actions[:, 0] == action
        said = np.exp(choice.logprob[mine, 0].astype(np.float64))
        assert np.ptp(said) < 1e-5
        assert mine.mean() == pytest.approx(said[0], abs=0.015)


def test_illegal_actions_and_absent_agents():
    available = np.ones((B, N, A), bool)
    available[:, :, 3:] = False
    alive = np.ones((B, N), bool)
    alive[:, 2] = False
    choice = choose(1.0, available=available, alive=alive)
    assert choice.source is not None
    assert choice.logprob is not None
    assert choice.actions.max() == 2
    assert (choice.source[:, 2] == ACTION_SOURCES["expert"]).all()
    assert (choice.logprob[:, 2] == 0).all()

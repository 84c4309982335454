import warnings

import numpy as np
import pytest

from kd_offline.environments import load
from kd_offline.environments.parallel import parallel_env

with warnings.catch_warnings():  # PettingZoo's tests import its own old environments
    warnings.simplefilter("ignore")
    from pettingzoo.test import parallel_api_test, parallel_seed_test

NAMES = ["grid/predator_prey", "mpe/simple_spread_v3", "mpe/simple_adversary_v3"]


@pytest.mark.parametrize("name", NAMES)
def test_passes_pettingzoos_own_test(name):
    parallel_api_test(parallel_env(name, episode_limit=40), num_cycles=100)
    parallel_seed_test(lambda: parallel_env(name, episode_limit=20), num_cycles=10)


@pytest.mark.parametrize("name", NAMES)
def test_tells_what_the_batched_environment_tells(name):
    one, batched = parallel_env(name, episode_limit=15), load(name, episode_limit=15)
    observations, infos = one.reset(seed=5)
    view = batched.reset(np.array([5], np.uint64))
    rng = np.random.default_rng(0)
    while one.agents:
        actions = {
            agent: int(rng.choice(np.flatnonzero(infos[agent]["action_mask"])))
            for agent in one.agents
        }
        for i, agent in enumerate(one.possible_agents):
            if agent in one.agents:
                width = batched.spec.obs_widths[i]
                np.testing.assert_array_equal(observations[agent], view.obs[0, i, :width])
        observations, rewards, terminated, truncated, infos = one.step(actions)
        joint = [[actions.get(agent, 0) for agent in one.possible_agents]]
        outcome = batched.step(np.array(joint))
        view = outcome.view
        np.testing.assert_array_equal(one.state(), view.state[0])
        for i, agent in enumerate(one.possible_agents):
            if agent in rewards:
                assert rewards[agent] == outcome.reward[0, i]
                left = not view.alive[0, i]
                assert terminated[agent] == bool(outcome.terminated[0] or left)
                assert truncated[agent] == bool(outcome.truncated[0] and not left)
    assert outcome.terminated[0] or outcome.truncated[0]

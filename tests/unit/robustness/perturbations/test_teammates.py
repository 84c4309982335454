from dataclasses import replace

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.errors import UsageError
from kd_offline.evaluation.rollout import rollout
from kd_offline.experts.load import load
from kd_offline.robustness.perturbations import PERTURBATIONS
from kd_offline.robustness.perturbations.base import ColumnScale, PerturbedPolicy, Setting
from kd_offline.robustness.perturbations.teammates import Adversarial, Dead, Frozen, RandomAgents
from kd_offline.seeding import episode_seeds, uniforms
from tests.unit.robustness.perturbations.factories import SEEDS, moment, output, setting, view

CHOSEN = np.full((4, 2), 2)
LOGITS = np.tile(np.array([1.0, -3.0, 5.0, -3.0]), (4, 2, 1))


def failing():
    draws = uniforms(SEEDS, 0, (2,), "audit", "team-mates")
    return np.arange(2) == draws.argmin(-1)[:, None]


def test_the_same_one_agent_of_each_episode_fails_whatever_it_does():
    for kind in (Dead, Frozen, RandomAgents, Adversarial):
        assert np.array_equal(kind(setting(1.0)).start(SEEDS)["fails"], failing())


def test_dead_agents_do_nothing():
    dead = Dead(setting(1.0))
    done = dead.actions(CHOSEN, output(LOGITS), view(), moment(dead))
    assert np.array_equal(done, np.where(failing(), 0, 2))


def test_frozen_agents_repeat_what_they_did_when_they_froze():
    frozen = Frozen(setting(2.0))
    kept, done = frozen.start(SEEDS), []
    since = kept["since"]
    assert set(since.ravel()) == {0, 1}
    for step in range(4):
        now = moment(frozen, step=step, kept=kept)
        done.append(frozen.actions(np.full((4, 2), step), output(LOGITS), view(), now))
        kept = now.kept
    assert all(np.array_equal(now, np.minimum(step, since)) for step, now in enumerate(done))


def test_random_agents_draw_among_their_legal_actions():
    seeds = np.arange(3000, dtype=np.uint64)
    legal = np.ones((3000, 2, 4), bool)
    legal[..., 1] = False
    noisy = RandomAgents(setting(2.0))
    chosen = np.zeros((3000, 2), np.int64)
    seen = view(legal=legal, batch=3000)
    done = noisy.actions(chosen, output(np.zeros((3000, 2, 4))), seen, moment(noisy, seeds=seeds))
    counts = np.bincount(done.ravel(), minlength=4) / done.size
    assert counts[1] == 0
    assert counts[[0, 2, 3]] == pytest.approx(1 / 3, abs=0.03)


def test_adversarial_agents_take_the_legal_action_that_they_hold_for_the_worst():
    worst = Adversarial(setting(2.0))
    legal = np.ones((4, 2, 4), bool)
    legal[0, 0, 1] = False
    done = worst.actions(CHOSEN, output(LOGITS), view(legal=legal), moment(worst))
    assert done[0].tolist() == [3, 1]
    valued = replace(output(LOGITS), q_values=-LOGITS.astype(np.float32))
    done = worst.actions(CHOSEN, valued, view(), moment(worst))
    assert (done == 2).all()


def test_an_adversarial_team_mate_costs_a_trained_expert_at_least_what_a_random_one_does():
    environment = environments.load("mpe/simple_spread_v3")
    expert = load("bundled", environment.spec, None, with_value=False)
    zero = np.zeros((3, environment.spec.obs_width), np.float32)
    seeds = episode_seeds(0, 0, 64, "evaluation")

    def returns(name):
        own = Setting(environment.spec, (0, 1, 2), ColumnScale(zero, zero), 1.0)
        policy = PerturbedPolicy(expert, PERTURBATIONS.load(name)(own))
        return rollout(environment, policy, seeds, greedy=True).returns.sum(1).mean()

    plain = rollout(environment, expert, seeds, greedy=True).returns.sum(1).mean()
    assert returns("adversarial") < returns("random") < plain


def test_more_agents_than_a_side_has_cannot_fail():
    for kind in (Dead, Frozen, RandomAgents, Adversarial):
        kind(setting(2.0))
        with pytest.raises(UsageError, match=r"3 agents of a side cannot fail: no side .* than 2"):
            kind(setting(3.0))

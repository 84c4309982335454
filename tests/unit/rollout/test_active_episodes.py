"""Finished episodes are left out of the policy's batch, and no episode takes another course."""

import numpy as np
import pytest

from kd_offline.environments import stepping
from kd_offline.environments.grid import predator_prey
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.policy_team import NetworkPolicy
from kd_offline.experts.value_team import ValuePolicy
from kd_offline.rollout import active_episodes
from kd_offline.rollout.active_episodes import select
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.testing.targets import TargetsEnvironment

BATCH = 96


def networks(recipe):
    spec = TargetsEnvironment().spec
    card = ExpertCard(
        environment=spec,
        recipe=recipe,
        agents=spec.agents,
        parameters={},
        frames=0,
        seconds=0.0,
        threads=1,
        finished=False,
    )
    return checkpoint.build(card)


def recipe(algorithm="mappo", **architecture):
    return TrainRecipe(
        environment=TargetsEnvironment().spec.id,
        algorithm=algorithm,
        architecture=ExpertArchitecture(trunk=(32,), gru=32, **architecture),
    )


def mappo(**architecture):
    team = networks(recipe(**architecture))
    return NetworkPolicy(team.model, team.norm)


def qmix():
    chosen = recipe("qmix", critic="none", last_action=True)
    team = networks(chosen)
    return ValuePolicy(team.model, team.norm, epsilon=0.5)


POLICIES = {
    "central": mappo,
    "local": lambda: mappo(critic="local"),
    "motion": lambda: mappo(motion=True, last_action=True),
    "separate": lambda: mappo(share=False),
    "qmix": qmix,
}


class Watched:
    """A policy that counts the rows that it is asked about; ``selective`` ones can be cut."""

    def __init__(self, policy, selective):
        self.start, self.policy, self.rows = policy.start, policy, []
        if selective:
            self.keep = policy.keep

    def act(self, view, memory):
        self.rows.append(len(view.obs))
        return self.policy.act(view, memory)


@pytest.fixture(params=POLICIES)
def both(request):
    """The same episodes with and without leaving out what is over."""
    made, seeds = POLICIES[request.param](), episode_seeds(0, 0, BATCH)
    policies = [Watched(made, selective) for selective in (True, False)]
    return policies, [collect(TargetsEnvironment(), p, seeds, sampled(seeds)) for p in policies]


def test_episodes_take_the_same_course(both):
    _, (cut, whole) = both
    assert len(set(whole.length.tolist())) > 2
    np.testing.assert_array_equal(cut.length, whole.length)
    np.testing.assert_array_equal(cut.won, whole.won)
    assert cut.steps.keys() == whole.steps.keys()
    for name, values in whole.steps.items():
        agree(name, cut.steps[name][whole.valid], values[whole.valid])
    for name, values in whole.final.items():
        agree(name, cut.final[name], values)


def agree(name, got, wanted):
    """What networks say may round in another way; what happens may not differ at all."""
    assert got.dtype == wanted.dtype
    said = name in ("logits", "q_values", "q_tot", "q_tot_max", "mixer_credit", "value")
    loose = 1e-5 if said or name in ("embedding", "behaviour_logprob") else 0
    np.testing.assert_allclose(got, wanted, rtol=loose, atol=loose / 10, err_msg=name)


def test_fewer_rows_are_asked_about(both):
    (cut, whole), (played, _) = both
    assert set(whole.rows) == {BATCH}
    assert sum(cut.rows) < sum(whole.rows)
    assert min(cut.rows) >= active_episodes.FEWEST
    for step, rows in enumerate(cut.rows):
        # Episodes that end in a step are shown once more.
        assert rows <= max(active_episodes.FEWEST, 2 * int((played.length >= step).sum()))


def test_a_small_batch_is_left_alone():
    made, seeds = (
        Watched(mappo(), selective=True),
        episode_seeds(0, 0, 2 * active_episodes.FEWEST - 1),
    )
    collect(TargetsEnvironment(), made, seeds, sampled(seeds))
    assert set(made.rows) == {2 * active_episodes.FEWEST - 1}


def test_the_view_of_some_episodes_holds_every_array_that_the_whole_view_holds():
    environment = predator_prey.load(size=4, n_predators=2, n_prey=2, view=3)
    view = stepping.reset(environment, np.arange(5, dtype=np.uint64), environment.full)
    chosen = select(view, np.array([3, 1]))
    np.testing.assert_array_equal(chosen.obs_full, view.obs_full[[3, 1]])
    np.testing.assert_array_equal(chosen.state, view.state[[3, 1]])
    assert chosen.last_actions is None

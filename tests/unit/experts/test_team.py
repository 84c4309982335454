import itertools

import numpy as np
import pytest
import torch

from kd_offline import environments
from kd_offline.errors import MismatchError
from kd_offline.experts.parameter_sharing import actor_groups
from kd_offline.experts.policy_team import NetworkPolicy
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.views import Seen
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.seeding import episode_seeds
from kd_offline.students.masks import resolve

SMALL = {"trunk": (8,), "gru": 6, "critic_trunk": (8,), "critic_gru": 5}


def visible(mask, spec):
    static = resolve(mask, spec).static
    assert static is not None
    return static


def team(name="mpe/simple_spread_v3", mask=None, **architecture):
    world = environments.load(name)
    seen = None if mask is None else visible(mask, world.spec)
    shape = ExpertArchitecture(**SMALL | architecture)
    return world, ActorCritic(world.spec, shape, seen, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("mpe/simple_spread_v3", {}, [(0, 1, 2)]),
        ("mpe/simple_spread_v3", {"share": False}, [(0,), (1,), (2,)]),
        ("mpe/simple_spread_v3", {"widths": (4, 8, 8)}, [(0,), (1,), (2,)]),
        ("mpe/simple_adversary_v3", {}, [(0,), (1, 2)]),
        ("mpe/simple_speaker_listener_v4", {}, [(0,), (1,)]),
    ],
)
def test_who_shares_a_network(name, architecture, expected):
    spec = environments.load(name).spec
    groups = actor_groups(spec, ExpertArchitecture(**architecture))
    assert [group.agents for group in groups] == expected


def test_wrong_number_of_widths_is_refused():
    spec = environments.load("mpe/simple_spread_v3").spec
    with pytest.raises(MismatchError, match=r"2 widths.*3 agents"):
        actor_groups(spec, ExpertArchitecture(widths=(8, 8)))


@pytest.mark.parametrize(
    ("motion", "last_action", "critic"),
    list(itertools.product((False, True), (False, True), ("central", "local"))),
)
@pytest.mark.parametrize("name", ["mpe/simple_spread_v3", "mpe/simple_adversary_v3"])
def test_learning_sees_what_acting_saw(name, motion, last_action, critic):
    """Logits and values of one unroll over an episode equal those of the steps that made it."""
    world, model = team(name, motion=motion, last_action=last_action, critic=critic, mask="limited")
    seeds = episode_seeds(0, 0, 4)
    policy = NetworkPolicy(model, ValueNorm(len(world.spec.sides)))
    played = collect(world, policy, seeds, sampled(seeds))
    step = {name: torch.from_numpy(values) for name, values in played.steps.items()}
    before = torch.cat([torch.full_like(step["actions"][:1], -1), step["actions"][:-1]])
    lengths = torch.full((4, world.spec.n_agents), len(before))
    with torch.no_grad():
        seen = Seen(step["obs"], step["state"])
        logits = model.act_episodes(seen, before, lengths)
        value = model.value_episodes(seen, lengths)
    torch.testing.assert_close(logits, step["logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(value, step["value"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", ["limited", None])
@pytest.mark.parametrize("widths", [None, (8, 16, 8)])
@pytest.mark.parametrize("name", ["mpe/simple_spread_v3", "mpe/simple_adversary_v3"])
def test_episodes_are_computed_up_to_where_they_count(name, widths, mask):
    world, model = team(name, motion=True, last_action=True, widths=widths, mask=mask)
    spec, draw = world.spec, np.random.default_rng(0)
    shape = (6, 5, spec.n_agents)
    obs = torch.from_numpy(draw.normal(size=(*shape, spec.obs_width)).astype(np.float32))
    before = torch.from_numpy(draw.integers(-1, min(spec.action_counts), shape))
    lengths = torch.from_numpy(draw.integers(1, 7, shape[1:]))
    with torch.no_grad():
        seen = Seen(obs, obs.new_zeros(6, 5, 0))
        whole = model.act_episodes(seen, before, torch.full_like(lengths, 6))
        counted = model.act_episodes(seen, before, lengths)
    there = (torch.arange(6).view(-1, 1, 1) < lengths).unsqueeze(-1)
    torch.testing.assert_close(counted, whole * there, atol=1e-6, rtol=1e-5)


def test_actors_see_nothing_behind_the_mask_and_critics_everything():
    world, model = team(mask="limited")
    hidden = ~visible("limited", world.spec)
    view = world.reset(episode_seeds(0, 0, 3))
    seen = Seen.of(view)
    other = seen._replace(obs=seen.obs + torch.from_numpy(hidden.astype(np.float32)) * 5)
    elsewhere = seen._replace(state=seen.state + 1)
    memory = model.start(3)
    assert torch.equal(model.act(seen, memory).logits, model.act(other, memory).logits)
    assert not torch.equal(model.value(seen, memory)[0], model.value(elsewhere, memory)[0])

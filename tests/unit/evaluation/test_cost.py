import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_offline import environments
from kd_offline.evaluation.cost import ValuePart, compare, team_cost, with_critic
from kd_offline.experts.load import load_own
from kd_offline.experts.policy_team import PolicyTeam
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.views import Seen
from kd_offline.networks.arithmetic import CountedShape, ExportedShape, NetworkCost, NetworkShape
from kd_offline.schemas.expert import ExpertArchitecture
from kd_offline.testing.factories import environment_spec


def test_team_and_episode_add_up():
    shapes = [NetworkShape(4, (8,), None, 3), NetworkShape(6, (8,), None, 3)]
    each = [shape.cost().flops for shape in shapes]
    team = team_cost(["a", "b"], shapes, [10.0, 5.5], 10.0, 25)
    assert team.flops == sum(each) == 2 * team.macs
    assert team.episode.flops == each[0] * 10 + each[1] * 5.5
    assert team.episode.flops_at_limit == 25 * team.flops
    both = compare(
        team_cost(["a"], [shapes[1]], [1], 1, 1), team_cost(["a"], [shapes[0]], [1], 1, 1)
    )
    assert both.flops_reduction == pytest.approx(each[1] / each[0])


def test_an_expert_with_its_critic_by_hand():
    actors = team_cost(["a", "b"], [NetworkShape(4, (8,), None, 3)] * 2, [10.0, 5.0], 10.0, 25)
    parts = (ValuePart(NetworkCost(100, 90, 7)), ValuePart(NetworkCost(20, 10, 3), calls=2))
    whole = with_critic(actors, parts, limit=25)
    assert whole.parameters == actors.parameters + 120
    assert whole.macs == actors.macs + 110
    assert whole.flops == actors.flops + 220
    assert whole.flops_per_decision == whole.flops / 2
    assert whole.elementwise == actors.elementwise + 13
    assert whole.episode.flops == actors.episode.flops + 2200
    assert whole.episode.flops_at_limit == 25 * whole.flops
    assert with_critic(actors, (), limit=25) is None


def test_what_is_not_known_of_a_counted_network_is_absent():
    team = team_cost(["a"], [CountedShape(4, 2, (10, 8, 1))], [1], 1, 1)
    memory = team.agents[0].memory
    assert (memory.parameters_fp32, memory.parameters_fp16) == (40, 20)
    assert memory.parameters_int8 is memory.hidden is memory.activation is None


def test_the_memory_of_an_agent_is_that_of_its_export():
    team = team_cost(["a"], [ExportedShape(3, (2,), 2, 4, motion=True)], [1], 1, 1)
    memory = team.agents[0].memory
    macs = 6 * 2 + 6 * 4 + 2 * 4
    assert memory.parameters_fp32 == 4 * (macs + 18 + 9)
    assert memory.parameters_int8 == macs + 4 * (18 + 18 + 9)
    assert (memory.hidden, memory.activation) == (4 * (2 + 4), 4 * (2 + 12))


@pytest.mark.parametrize("critic", ["central", "local"])
@pytest.mark.parametrize("share", [True, False])
def test_an_experts_actors_and_critics_cost_what_the_flop_counter_says(critic, share):
    spec = environment_spec((6, 6, 4))
    architecture = ExpertArchitecture(
        trunk=(9,), gru=7, share=share, critic=critic, critic_trunk=(5, 4), critic_gru=3
    )
    model = ActorCritic(spec, architecture, None, None).to("meta")

    team = PolicyTeam(model, ValueNorm(1))
    obs = torch.zeros(1, 3, 6, device="meta")
    state = torch.zeros(1, 16, device="meta")
    shapes = {i: g.shape for g in model.groups for i in g.agents}
    actors = np.sum([shapes[i].cost().flops for i in range(3)])
    critics = np.sum([part.calls * part.cost.flops for part in team.value_parts()])
    with torch.device("meta"), torch.inference_mode():
        memory = model.start(1)
        with FlopCounterMode(display=False) as counter:
            model.act(Seen(obs, state), memory)
        assert counter.get_total_flops() == actors
        with FlopCounterMode(display=False) as counter:
            model.value(Seen(obs, state), memory)
        assert counter.get_total_flops() == critics
    held = np.sum([part.cost.parameters for part in team.value_parts()])
    assert held == model.parameter_counts()["critic"]


def test_a_bundled_expert_is_counted_whole():
    spec = environments.load("mpe/simple_spread_v3").spec
    expert = load_own("bundled", spec)
    parts = expert.value_parts()
    assert sum(p.cost.parameters for p in parts) == expert.card.parameters["critic"]
    first = expert.actor_shapes()[0].cost().parameters
    assert first == expert.card.parameters["actor"]
    assert np.sum([p.calls for p in parts]) == 1


def test_a_shared_network_can_be_counted_once():
    shapes = [NetworkShape(21, (64, 64), 64, 5)] * 3
    each = team_cost(("a", "b", "c"), shapes, [25.0] * 3, 25.0, 25)
    small = team_cost(("a", "b", "c"), [NetworkShape(10, (8,), 8, 5)] * 3, [25.0] * 3, 25.0, 25)
    once = each.model_copy(update={"parameters_once": each.parameters // 3})
    assert compare(each, small).parameters_reduction_once is None
    found = compare(once, small)
    assert found.parameters_reduction_once is not None
    assert found.parameters_reduction == pytest.approx(3 * found.parameters_reduction_once)

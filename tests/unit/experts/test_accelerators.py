"""Experts on another device: whatever a network computes with is on its device.

No GPU is at hand, so networks are on PyTorch's ``meta`` device, which knows shapes alone. Most
operations that mix its tensors with the processor's are errors, as on a GPU. What is read back to
the processor is ones here, which are also lengths that sequences can have.
"""

from dataclasses import replace

import pytest
import torch

from kd_offline import environments
from kd_offline.errors import UsageError
from kd_offline.experts import checkpoint, ppo
from kd_offline.experts.algorithms import ALGORITHMS
from kd_offline.experts.algorithms.mixed_values import MixedValues
from kd_offline.experts.load import load_own
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.train import train
from kd_offline.experts.value_learner import ValueLearner, _joint_values
from kd_offline.networks.accelerator import moved
from kd_offline.rollout.collect import collect_sampled
from kd_offline.seeding import episode_seeds, generator
from kd_offline.testing.targets import TargetsEnvironment

NAME = "mpe/simple_spread_v3"
META = torch.device("meta")
SEEDS = episode_seeds(0, 0, 4)
SMALL = {"architecture.trunk": (8,), "architecture.gru": 8, "architecture.critic_gru": 8}
VALUES = [name for name in ALGORITHMS.built_in if isinstance(ALGORITHMS.load(name), MixedValues)]
MORE_INPUTS = {
    "architecture.motion": True,
    "architecture.last_action": True,
    "architecture.share": False,
}


@pytest.fixture
def readable(monkeypatch):
    def read(values):
        return torch.ones(values.shape, dtype=values.dtype) if values.device == META else values

    monkeypatch.setattr(torch.Tensor, "cpu", read)


def team_and_learner(algorithm, settings=None, device=META):
    spec = TargetsEnvironment().spec
    recipe = train_recipe(spec.id, algorithm=algorithm, settings=SMALL | (settings or {}))
    rng = generator(0, "test", 0)
    team = ALGORITHMS.load(algorithm).team(spec, recipe, None, rng)
    assert moved(team, device)
    return team, ALGORITHMS.load(algorithm).learner(team, spec, recipe), recipe


def require_there(tensors):
    kept = list(tensors)
    assert kept
    assert {each.device for each in kept} == {META}


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("algorithm", ["mappo", "ippo", *VALUES])
def test_experts_play_from_their_device_with_arrays_of_the_processor(algorithm):
    team, learner, _ = team_and_learner(algorithm, MORE_INPUTS)
    for policy in (team.policy(), team.policy(with_value=False)):
        played = collect_sampled(TargetsEnvironment(), policy, SEEDS, ("embedding",))
        assert played.steps["actions"].shape[1:] == (4, 2)
    state = learner.state().every_tensor()
    networks = ("model.", "targets.", "joint")
    require_there(x for name, x in state.items() if name.startswith(networks))


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("settings", [{}, MORE_INPUTS], ids=["plain", "more inputs"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_a_clipped_update(algorithm, settings):
    team, _, recipe = team_and_learner(algorithm, settings, torch.device("cpu"))
    played = collect_sampled(TargetsEnvironment(), team.policy(), SEEDS)
    model = team.model
    batch, _ = ppo.make_batch(played, recipe, team.norm, model.side_of, torch.ones(2))
    batch = replace(batch, pull=ppo.Pull(0.5, torch.randn(6, 4, 2, 4)))
    team.to(META)
    loss, statistics = ppo._loss(model, batch.take(torch.tensor([0, 2])), recipe)
    loss.backward()
    require_there([statistics, *(p.grad for p in model.parameters())])


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("algorithm", VALUES)
def test_an_update_from_replayed_episodes(algorithm):
    team, learner, recipe = team_and_learner(algorithm)
    assert isinstance(learner, ValueLearner)
    played = collect_sampled(TargetsEnvironment(), team.policy(), SEEDS)
    batch = learner.replay.added(played).sample(4, generator(0, "replay", 0)).to(META)
    values = _joint_values(learner.networks, learner.targets, batch, recipe, 1.0)
    learner.loss_of(values, recipe).mean().backward()
    require_there([values.mixed, values.target])
    require_there(p.grad for p in team.actors.actors.parameters())


@pytest.mark.usefixtures("readable")
def test_an_expert_moves_with_its_opponents():
    spec = environments.load("mpe/simple_adversary_v3").spec
    own, other = load_own("bundled", spec), load_own("bundled", spec)
    assert moved(replace(own, opponents=other), META)
    require_there(own.team.actors.parameters())
    require_there(other.team.actors.parameters())


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = train_recipe(NAME, settings={"accelerator": "cuda"})
    with pytest.raises(UsageError, match="'cuda' is not there"):
        train(recipe, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_algorithms_that_know_the_processor_alone_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkpoint, "build", lambda card: object())
    recipe = train_recipe(NAME, settings=SMALL | {"accelerator": "cuda"})
    with pytest.raises(UsageError, match="experts of mappo are trained on the processor alone"):
        train(recipe, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_what_auto_came_to_is_recorded_and_the_bits_are_those_of_the_processor(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    short = SMALL | {"frames": 200, "episodes_per_batch": 4}
    cards = []
    for accelerator in ("auto", "cpu"):
        recipe = train_recipe(NAME, settings=short | {"accelerator": accelerator})
        train(recipe, tmp_path / accelerator, threads=1, score_episodes=0)
        cards.append(checkpoint.read_card(tmp_path / accelerator))
    auto, cpu = cards
    assert (auto.recipe.accelerator, auto.device) == ("auto", "cpu")
    assert auto.weights == cpu.weights
    # Files of trainings on the processor are those of versions that knew nothing else.
    assert not {"accelerator", "device"} & set(cpu.model_dump()["recipe"]) | (
        {"device"} & set(cpu.model_dump())
    )

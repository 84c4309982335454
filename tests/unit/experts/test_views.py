"""Actors that see more than their own observations: what they read, remember, cost and record."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kd_offline import environments
from kd_offline.datasets.reading.reader import ExpertBuffer
from kd_offline.environments.stepping import full_spec
from kd_offline.errors import MismatchError, UsageError
from kd_offline.experts import checkpoint
from kd_offline.experts.card import ExpertCard
from kd_offline.experts.load import load
from kd_offline.experts.policy_team import NetworkPolicy
from kd_offline.experts.ppo import ValueNorm
from kd_offline.experts.recipe import train_recipe
from kd_offline.experts.replay import Replay
from kd_offline.experts.team import ActorCritic
from kd_offline.experts.train import train
from kd_offline.experts.views import Seen
from kd_offline.exports.compact import compact_expert
from kd_offline.networks.fusion_shape import FusionShape
from kd_offline.recording.record import record
from kd_offline.recording.relabel import relabel
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe
from kd_offline.seeding import episode_seeds
from kd_offline.testing.algorithms import check_algorithm
from kd_offline.types import needs_full

BOARD = "grid/predator_prey"
KWARGS = {"size": 4, "n_predators": 2, "n_prey": 2, "view": 3, "episode_limit": 12}
SMALL: dict[str, Any] = {"trunk": (8,), "gru": 6, "critic_trunk": (8,), "critic_gru": 5}
BLOCK = {"block_width": 5, "block_hidden": 4}
VIEWS: dict[str, dict[str, Any]] = {
    "full": {"view": "full"},
    "state": {"view": "state"},
    "fusion": {"view": "personalised", **BLOCK},
    "hypernetwork": {"view": "personalised", "block": "hypernetwork", **BLOCK},
    "own": {"view": "local", "block": "fusion", **BLOCK},
}
TAPS = {"fusion": {"s_hat": 5, "feature": 8}, "own": {"s_hat": 5, "feature": 8}}
TAPS["hypernetwork"] = {"z": 5}
SEEDS = episode_seeds(0, 0, 5)
SETTINGS = {"buffer_episodes": 30, "batch_episodes": 8, "target_every": 3, "epsilon_frames": 100}
SETTINGS["updates_per_batch"] = 4


def board():
    return environments.load(BOARD, **KWARGS)


def team(name, **architecture):
    world = board()
    shape = ExpertArchitecture(**SMALL | VIEWS[name] | architecture)
    spec = full_spec(world) if name == "full" else world.spec
    return world, ActorCritic(spec, shape, None, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "share", "motion"), list(itertools.product(VIEWS, [True, False], [True, False]))
)
def test_learning_sees_what_acting_saw(name, share, motion):
    world, model = team(name, share=share, motion=motion, last_action=True, critic="local")
    seeds = episode_seeds(0, 0, 3)
    policy = NetworkPolicy(model, ValueNorm(1))
    played = collect(world, policy, seeds, sampled(seeds))
    step = {key: torch.from_numpy(values) for key, values in played.steps.items()}
    assert ("obs_full" in step) is (name == "full")
    before = torch.cat([torch.full_like(step["actions"][:1], -1), step["actions"][:-1]])
    lengths = torch.full((3, 2), len(before))
    seen = Seen(step["obs"], step["state"], step.get("obs_full"))
    with torch.no_grad():
        whole = model.episodes(seen, before, lengths, taps=True)
        value = model.value_episodes(seen, lengths)
    torch.testing.assert_close(whole.logits, step["logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(value, step["value"], atol=1e-5, rtol=1e-4)
    assert {key: values.shape[-1] for key, values in whole.taps.items()} == TAPS.get(name, {})
    for key, values in whole.taps.items():
        recorded = step[f"embedding_{key}"]
        torch.testing.assert_close(values, recorded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VIEWS)
def test_steps_that_do_not_count_are_not_computed(name):
    _, model = team(name, last_action=True)
    spec, draw = model.spec, np.random.default_rng(0)

    def drawn(*size):
        return torch.from_numpy(draw.standard_normal(size)).float()

    full = drawn(6, 5, 2, spec.full.width) if name == "full" else None
    seen = Seen(drawn(6, 5, 2, spec.obs_width), drawn(6, 5, spec.state_width), full)
    before = torch.from_numpy(draw.integers(-1, 5, (6, 5, 2)))
    lengths = torch.from_numpy(draw.integers(1, 7, (5, 2)))
    with torch.no_grad():
        whole = model.act_episodes(seen, before, torch.full_like(lengths, 6))
        counted = model.act_episodes(seen, before, lengths)
    there = (torch.arange(6).view(-1, 1, 1) < lengths).unsqueeze(-1)
    torch.testing.assert_close(counted, whole * there, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", VIEWS)
def test_actors_read_what_their_view_says_and_nothing_else(name):
    world, model = team(name)
    view = world.reset(episode_seeds(0, 0, 3))
    view = replace(view, obs_full=world.full_observations()) if name == "full" else view
    seen = Seen.of(view)
    memory = model.start(3)
    said = model.act(seen, memory).logits
    changed = {
        field
        for field in ("obs", "state", "full")
        if getattr(seen, field) is not None
        and not torch.equal(
            said,
            model.act(seen._replace(**{field: getattr(seen, field) + 1.5}), memory).logits,
        )
    }
    reads = {"full": {"full"}, "state": {"state"}, "own": {"obs"}}
    assert changed == reads.get(name, {"obs", "state"})


def test_a_raw_state_matters_by_its_scale_and_a_normalised_one_does_not():
    for normalise, same in ((True, True), (False, False)):
        world, model = team("fusion", normalise_state=normalise)
        seen, memory = Seen.of(world.reset(episode_seeds(0, 0, 3))), model.start(3)
        scaled = seen._replace(state=3 * seen.state)
        one, other = (model.act(each, memory).logits for each in (seen, scaled))
        assert torch.allclose(one, other, atol=1e-4) is same


CHECKED = [
    ("mappo", {"view": "personalised", "block": "hypernetwork"}, {"minibatches": 2}),
    ("ippo", {"view": "state"}, {"minibatches": 2}),
    ("vdn", {"view": "personalised"}, {"q_learning": SETTINGS}),
    ("qmix", {"view": "local", "block": "fusion"}, {"q_learning": SETTINGS}),
    ("qatten", {"view": "state"}, {"q_learning": SETTINGS}),
    ("qplex", {"view": "personalised"}, {"q_learning": SETTINGS}),
    ("wqmix", {"view": "personalised"}, {"q_learning": SETTINGS}),
    ("qtran", {"view": "state"}, {"q_learning": SETTINGS}),
]


@pytest.mark.parametrize(("name", "view", "settings"), CHECKED)
def test_every_algorithm_keeps_its_protocol_with_actors_that_see_more(name, view, settings):
    small = {"trunk": (8,), "gru": 8, **BLOCK, **view}
    check_algorithm(name, {"architecture": small, **settings})


@pytest.mark.parametrize("algorithm", ["vdn", "mappo"])
def test_full_observations_are_learned_from_and_restored(tmp_path, algorithm):
    settings = {"q_learning": SETTINGS} if algorithm == "vdn" else {"minibatches": 2}
    given = {"frames": 150, "episodes_per_batch": 4, "architecture.view": "full"} | settings
    given |= {f"architecture.{name}": values for name, values in SMALL.items()}
    given |= {"environment_kwargs": KWARGS}
    made = train_recipe(BOARD, algorithm=algorithm, settings=given)
    card = train(made, tmp_path / "a", threads=1, score_episodes=4)
    assert card.environment.full is not None
    assert card.finished
    expert = load(tmp_path / "a", board().spec)
    assert needs_full(expert)
    own = str(tmp_path / "a")
    record(BOARD, tmp_path / "d", expert=own, episodes=3, environment_kwargs=KWARGS)
    assert {"steps/obs_full", "final/obs_full"} <= set(
        ExpertBuffer.open(tmp_path / "d").manifest.arrays
    )
    assert relabel(tmp_path / "d", 3, experts=[own]).ok
    played = collect(board(), expert, SEEDS, sampled(SEEDS))
    replay = Replay(5).added(played)
    again = Replay(5).restored(replay.tensors()).sample(5, np.random.default_rng(0))
    assert again.seen.full is not None
    assert again.seen.full.shape[:3] == (*again.seen.obs.shape[:2], 2)


def test_taps_are_recorded_and_recomputed(tmp_path):
    given = {"frames": 60, "episodes_per_batch": 4, "environment_kwargs": KWARGS}
    given |= {"q_learning": SETTINGS, "architecture": {"trunk": (8,), "gru": 6, **VIEWS["fusion"]}}
    made = train_recipe(BOARD, algorithm="vdn", settings=given)
    train(made, tmp_path / "a", threads=1, score_episodes=0)
    expert = str(tmp_path / "a")
    record(BOARD, tmp_path / "d", expert=expert, episodes=5, environment_kwargs=KWARGS)
    buffer = ExpertBuffer.open(tmp_path / "d")
    rows = len(buffer.read("steps/reward"))
    stored = {name: buffer.read(name) for name in buffer.manifest.arrays}
    assert stored["steps/embedding_s_hat"].shape == (rows, 2, 5)
    assert stored["steps/embedding_s_hat"].dtype == np.float16
    assert stored["steps/embedding_feature"].shape == (rows, 2, 8)
    assert buffer.manifest.experts[0].architecture["view"] == "personalised"
    report = relabel(tmp_path / "d", 5, experts=[expert])
    assert {"steps/embedding_s_hat", "steps/embedding_feature"} <= report.arrays.keys()
    assert report.ok


def test_a_mask_and_a_privileged_view_exclude_each_other():
    for view in ("full", "state", "personalised"):
        with pytest.raises(
            UsageError, match=f"mask 'limited' hides what actors of the view {view}"
        ):
            train_recipe(BOARD, settings={"mask": "limited", "architecture.view": view})
    made = train_recipe(BOARD, settings={"mask": "limited", "architecture.block": "fusion"})
    assert made.architecture.view == "local"


def test_a_block_that_a_view_does_not_have_is_refused():
    with pytest.raises(UsageError, match="the view state has the block none, not fusion"):
        train_recipe(BOARD, settings={"architecture": {"view": "state", "block": "fusion"}})
    with pytest.raises(UsageError, match="has the block fusion or hypernetwork, not none"):
        train_recipe(BOARD, settings={"architecture": {"view": "personalised", "block": "none"}})
    with pytest.raises(ValidationError, match="students see their own observations"):
        TrainRecipe(
            environment=BOARD,
            architecture=ExpertArchitecture(widths=(4, 4), view="state"),
            start={"run": "r", "seed": 0, "digest": "sha256:0"},
        )


def test_an_environment_without_full_observations_is_refused(tmp_path):
    task = "pettingzoo/mpe2.simple_reference_v3:parallel_env"
    made = train_recipe(task, settings={"architecture.view": "full", "frames": 100})
    with pytest.raises(MismatchError, match=r"gives no full observations: .* view local or state"):
        train(made, tmp_path / "a", threads=1)
    assert not (tmp_path / "a").exists()


def test_a_personalised_view_has_the_fusion_block_by_itself():
    made = train_recipe(BOARD, settings={"architecture.view": "personalised"})
    assert made.architecture.block == "fusion"


def test_documents_of_local_actors_are_those_of_earlier_versions():
    plain = ExpertArchitecture().model_dump(mode="json")
    assert not {"view", "block", "block_width", "normalise_state"} & plain.keys()
    assert ExpertArchitecture(view="local", block="none").model_dump(mode="json") == plain
    privileged = ExpertArchitecture(view="personalised", block_width=16)
    said = privileged.model_dump(mode="json")
    assert (said["view"], said["block"], said["block_width"]) == ("personalised", "fusion", 16)
    assert "block_hidden" not in said
    assert ExpertArchitecture.model_validate(said) == privileged


def card(name, world=None, **parts):
    world = world or board()
    spec = full_spec(world) if name == "full" else world.spec
    shape = ExpertArchitecture(**SMALL | VIEWS[name] | {"critic": "none", "last_action": True})
    recipe = TrainRecipe(environment=BOARD, algorithm="vdn", architecture=shape)
    return ExpertCard(
        environment=spec,
        recipe=recipe,
        agents=spec.agents,
        parameters={"actor": 1},
        frames=1,
        seconds=0.0,
        threads=1,
        finished=True,
        **parts,
    )


def expert(name, **parts):
    from kd_offline.experts.expert import TrainedExpert

    made = card(name, **parts)
    built = checkpoint.build(made)
    rng = np.random.default_rng(5)
    for parameter in built.actors.parameters():
        parameter.data += torch.from_numpy(rng.normal(0, 0.2, tuple(parameter.shape))).float()
    return TrainedExpert(made, "sha256:" + "0" * 64, built, name, with_value=False)


def test_a_card_whose_privileged_actors_have_a_mask_is_refused():
    rows = ((True,) * board().spec.obs_width,) * 2
    with pytest.raises(ValidationError, match="actors of the view state see through no mask"):
        card("state", mask=rows)


@pytest.mark.parametrize("name", VIEWS)
def test_the_cost_of_a_decision_is_that_of_its_network(name):
    team = expert(name)
    for shape in team.actor_shapes():
        assert shape.cost().parameters == sum(p.numel() for p in team.team.actors.parameters())
    first = team.actor_shapes()[0]
    if isinstance(first, FusionShape):
        assert first.readers == (1 if name == "own" else 2)


def test_a_mask_takes_columns_from_a_local_block_too():
    spec = board().spec
    rows = np.ones((2, spec.obs_width), bool)
    rows[:, :7] = False
    hidden, whole = expert("own", mask=tuple(map(tuple, rows.tolist()))), expert("own")
    few, every = hidden.actor_shapes()[0], whole.actor_shapes()[0]
    assert (every.source - few.source, every.local - few.local) == (7, 7)
    assert compact_expert(hidden)[0].macs == few.cost().macs - 2 * few.hyper  # ids are in a bias


@pytest.mark.parametrize("name", ["full", "state", "fusion", "hypernetwork"])
def test_what_no_agent_carries_is_not_exported(name):
    with pytest.raises(UsageError, match="which no agent carries, so it is not exported"):
        compact_expert(expert(name))


def test_a_local_block_is_exported(tmp_path):
    from kd_offline.evaluation.engines import ExportedStep
    from kd_offline.exports import c_source, onnx_graph

    team, world = expert("own"), board()
    networks = compact_expert(team)
    seeds = episode_seeds(0, 0, 4)
    steps = []
    for i, network in enumerate(networks):
        onnx_graph.write(tmp_path / f"{i}.onnx", network, {})
        steps.append([network.step, onnx_graph.step(tmp_path / f"{i}.onnx")])
    timed = [ExportedStep(network, 4) for network in networks]
    view, memory = world.reset(seeds), team.start(seeds)
    kept = [[np.zeros((4, n.memory_width), np.float32)] * 2 for n in networks]
    for _ in range(4):
        wanted, memory = team.act(view, memory)
        actions = []
        for i, network in enumerate(networks):
            obs, legal = view.obs[:, i][:, network.seen], view.available_actions[:, i]
            before = torch.from_numpy(kept[i][0])
            quick, _ = timed[i](torch.from_numpy(obs), torch.from_numpy(legal), before)
            for k, step in enumerate(steps[i]):
                action, logits, kept[i][k] = step(obs, legal, kept[i][k])
                q = wanted.q_values[:, i]
                scale = q.std() / logits.std() if q.std() else 1
                np.testing.assert_allclose(logits * scale, q, atol=1e-4)
            np.testing.assert_array_equal(quick.numpy(), action)
            actions.append(action)
        chosen = np.stack(actions, 1)
        view = replace(world.step(chosen).view, last_actions=chosen)
    assert c_source.static_bytes(networks[0]) > 0

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kd_offline import environments
from kd_offline.errors import CheckpointError, MismatchError, UnknownNameError, UsageError
from kd_offline.experts.importers.load import load as load_foreign
from kd_offline.experts.load import load as load_expert
from kd_offline.types import View
from tests.compatibility.test_foreign_experts import HERE, checkpoint
from tests.unit.experts.importers.layouts import spread_mappo, spread_qmix


def load(*given: Any, **settings: Any) -> Any:
    return load_expert(*given, **settings)


def normalised(expert: Any) -> bool:
    """Whether its values are in units that nothing in the checkpoint explains."""
    return expert.value_units is not None and not expert.value_units.raw


SPREAD = environments.load("mpe/simple_spread_v3").spec
ADVERSARY = environments.load("mpe/simple_adversary_v3").spec


def view(spec, seed=0, last=None):
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((2, spec.n_agents, spec.obs_width)).astype(np.float32)
    return View(
        obs,
        obs.reshape(2, -1),
        np.ones((2, spec.n_agents, spec.action_count), bool),
        np.ones((2, spec.n_agents), bool),
        last,
    )


def ask(expert, seen, steps=2):
    memory = expert.start(np.zeros(2, np.uint64))
    for _ in range(steps):
        output, memory = expert.act(seen, memory)
    return output


def test_the_shared_central_critic_reads_the_state_and_the_id(tmp_path):
    _, critic = spread_mappo(tmp_path)
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    assert expert.recipe.inputs == ("obs", "agent_id")
    assert expert.recipe.critic_inputs == ("state", "agent_id")
    seen = view(SPREAD)
    x = torch.cat([torch.from_numpy(seen.state[1]), torch.eye(3)[2]])
    for k in (1, 2, 3):
        x = critic[f"fc{k}.weight"] @ x + critic[f"fc{k}.bias"]
        x = x.relu() if k < 3 else x
    np.testing.assert_allclose(ask(expert, seen).value[1, 2], x.item(), rtol=1e-5)


def test_without_value_no_critic_runs(tmp_path):
    spread_mappo(tmp_path)
    expert = load(f"epymarl:{tmp_path}", SPREAD, with_value=False)
    assert not expert.policy.critics
    assert ask(expert, view(SPREAD)).value is None
    assert expert.digest == load(f"epymarl:{tmp_path}", SPREAD).digest


def test_what_is_not_needed_is_not_read(tmp_path):
    spread_mappo(tmp_path)
    (tmp_path / "opt.th").write_bytes(b"not a file of torch")
    load(f"epymarl:{tmp_path}/agent.th", SPREAD)


def test_settings_beside_the_checkpoint_and_those_given_beat_what_was_detected(tmp_path):
    spread_mappo(tmp_path)
    plain = load(f"epymarl:{tmp_path}", SPREAD)
    assert normalised(plain)
    (tmp_path / "expert.toml").write_text('gamma = 0.9\nactivation = "tanh"\nvalue_units = "raw"\n')
    beside = load(f"epymarl:{tmp_path}", SPREAD)
    assert (beside.recipe.gamma, beside.recipe.activation) == (0.9, "tanh")
    assert not normalised(beside)
    assert beside.digest != plain.digest
    assert not np.allclose(ask(beside, view(SPREAD)).logits, ask(plain, view(SPREAD)).logits)
    other = tmp_path / "other.toml"
    other.write_text("gamma = 0.5\n")
    given = load(f"epymarl:{tmp_path}", SPREAD, other)
    assert (given.recipe.gamma, given.recipe.activation) == (0.5, "relu")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("colour = 1", UnknownNameError, "colour"),
        ('activation = "cubic"', UsageError, "activation"),
        ('library = "jaxmarl"', UsageError, "is for jaxmarl"),
        ('inputs = ["obs"]', MismatchError, "takes 21 inputs"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, text, error, says):
    spread_mappo(tmp_path)
    (tmp_path / "expert.toml").write_text(text)
    with pytest.raises(error, match=says):
        load(f"epymarl:{tmp_path}", SPREAD)


def test_frames_are_stacked_from_zeros(tmp_path):
    agent, _ = spread_mappo(tmp_path, obs=36)
    (tmp_path / "expert.toml").write_text("frames = 2\n")
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    first, second = view(SPREAD, 1), view(SPREAD, 2)
    memory = expert.start(np.zeros(2, np.uint64))
    _, memory = expert.act(first, memory)
    np.testing.assert_array_equal(memory.own.frames[0].numpy(), first.obs)
    fed = expert.policy._fed(
        expert.policy.actors[0],
        second,
        torch.stack([torch.from_numpy(second.obs), *memory.own.frames]),
    )
    np.testing.assert_array_equal(fed[..., :18], first.obs)
    np.testing.assert_array_equal(fed[..., 18:36], second.obs)
    assert agent["fc1.weight"].shape[1] == fed.shape[-1]


def test_the_flags_of_a_config_decide(tmp_path):
    spread_mappo(tmp_path, obs=21, agents=5)  # 26 wide: obs, last action and id, or neither
    spread_mappo(tmp_path / "b", obs=30)
    with pytest.raises(MismatchError, match="observations 18, a last action 5, an agent id 3"):
        load(f"epymarl:{tmp_path}/b", SPREAD)
    assert load(f"pymarl2:{tmp_path}", SPREAD).recipe.inputs == ("obs", "last_action", "agent_id")
    flags = {"obs_last_action": False, "obs_agent_id": True, "name": "ippo", "gamma": 0.9}
    (tmp_path / "config.json").write_text(json.dumps(flags))
    with pytest.raises(MismatchError, match="26 inputs"):
        load(f"pymarl2:{tmp_path}", SPREAD)
    flags["obs_last_action"] = True
    (tmp_path / "config.json").write_text(json.dumps(flags))
    expert = load(f"pymarl2:{tmp_path}", SPREAD)
    assert (expert.recipe.algorithm, expert.recipe.gamma) == ("ippo", 0.9)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(f"pymarl2:{tmp_path}", SPREAD)


def test_a_critic_that_does_not_fit_is_left_out_and_said(tmp_path):
    spread_mappo(tmp_path, state=60)
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    assert expert.recipe.critic_inputs is None
    assert not normalised(expert)
    assert any("it takes 63 inputs" in what for what in expert.missing)
    (tmp_path / "critic.th").unlink()
    (tmp_path / "config.json").write_text('{"agent_output_type": "pi_logits"}')
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    assert (expert.recipe.output, expert.record.value_of) == ("logits", "")
    assert any("critic.th" in what for what in expert.missing)


def test_without_memory_the_layer_called_rnn_is_dense(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sizes = {"fc1": (8, 18), "rnn": (8, 8), "fc2": (5, 8)}
    agent: dict[str, torch.Tensor] = {}
    for name, size in sizes.items():
        agent[f"{name}.weight"] = torch.randn(size, generator=generator)
        agent[f"{name}.bias"] = torch.randn(size[0], generator=generator)
    torch.save(agent, tmp_path / "agent.th")
    seen = view(SPREAD)
    x = torch.from_numpy(seen.obs[0, 0])
    for name in sizes:
        x = agent[f"{name}.weight"] @ (x.relu() if name != "fc1" else x) + agent[f"{name}.bias"]
    output = ask(load(f"pymarl2:{tmp_path}", SPREAD), seen)
    np.testing.assert_allclose(output.q_values[0, 0], x, rtol=1e-5, atol=1e-5)


def test_networks_of_another_kind_are_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"params,Dense_0,kernel": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match="holds 0 recurrent cells"):
        load(f"jaxmarl:{file}", SPREAD)
    name = "loss_agents"
    content = {name: {"actor_network_params.module.0.cnn.weight": torch.zeros(2, 2)}}
    torch.save(content, tmp_path / "checkpoint_1.pt")
    with pytest.raises(CheckpointError, match="neither an MLP nor a GRU"):
        load(f"benchmarl:{tmp_path / 'checkpoint_1.pt'}", SPREAD)
    torch.save({"base.cnn.weight": torch.zeros(2, 2)}, tmp_path / "actor.pt")
    with pytest.raises(CheckpointError, match="one discrete action"):
        load(f"on-policy:{tmp_path}", SPREAD)


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "make", [lambda p: torch.save(Evil(), p), lambda p: p.write_bytes(pickle.dumps(Evil()))]
)
def test_pickles_are_never_executed(tmp_path, capsys, make):
    make(tmp_path / "agent.th")
    with pytest.raises(CheckpointError, match=r"run code|cannot read"):
        load(f"epymarl:{tmp_path}", SPREAD)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[1, 2], {"fc1.weight": torch.zeros(4, 21)}, {}])
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "agent.th")
    with pytest.raises(CheckpointError, match=r"agent\.th"):
        load(f"epymarl:{tmp_path}", SPREAD)


def test_a_damaged_file_is_refused(tmp_path):
    spread_mappo(tmp_path)
    file = tmp_path / "agent.th"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cannot read|run code"):
        load(f"epymarl:{tmp_path}", SPREAD)


@pytest.mark.parametrize(
    ("wrong", "name", "right"),
    [
        ("epymarl", "onpolicy_mappo_mlp", "on-policy"),
        ("on-policy", "epymarl_qmix_rnn", "epymarl"),
        ("epymarl", "jaxmarl_qmix_rnn", "jaxmarl"),
        ("jaxmarl", "benchmarl_qmix_mlp", "benchmarl"),
        ("benchmarl", "pymarl2_qmix", "pymarl2"),
        ("benchmarl", "onpolicy_mappo_mlp", "on-policy"),
        ("onnx", "jaxmarl_qmix_rnn", "jaxmarl"),
    ],
)
def test_a_wrong_library_is_told(wrong, name, right):
    path = checkpoint(HERE / name, right if right in ("jaxmarl", "benchmarl") else "")
    with pytest.raises(CheckpointError, match=f"looks like one of {right}, so write {right}:"):
        load_foreign(f"{wrong}:{path}", SPREAD)


def test_a_checkpoint_without_its_library_is_told():
    with pytest.raises(CheckpointError, match="write on-policy:"):
        load(HERE / "onpolicy_mappo_mlp", SPREAD)
    with pytest.raises(UnknownNameError, match="did you mean 'epymarl'"):
        load("epymar:models", SPREAD)
    with pytest.raises(CheckpointError, match=r"did you mean epymarl:.*_qmix"):
        load(f"epymarl:{HERE}", SPREAD)
    with pytest.raises(UsageError, match="names no place"):
        load("jaxmarl:", SPREAD)
    with pytest.raises(CheckpointError, match="check the path"):
        load("on-policy:nowhere", SPREAD)
    with pytest.raises(UsageError, match="needs no recipe"):
        load("bundled", SPREAD, "expert.toml")


@pytest.mark.parametrize(
    ("reference", "spec", "says"),
    [
        ("epymarl:epymarl_mappo_ns_rnn", ADVERSARY, "takes 18 inputs"),
        ("benchmarl:benchmarl_qmix_mlp/checkpoint_120.pt", SPREAD, "takes 14 inputs"),
        (
            "on-policy:onpolicy_rmappo_separated",
            environments.load("mpe/simple_spread_v3", n_agents=4).spec,
            "networks for 3 agents, and mpe/simple_spread_v3 has 4",
        ),
    ],
)
def test_another_task_is_told_in_one_sentence(reference, spec, says):
    library, _, name = reference.partition(":")
    with pytest.raises(MismatchError, match=says):
        load(f"{library}:{HERE / name}", spec)


def test_other_actions_are_told(tmp_path):
    spread_mappo(tmp_path, actions=9)
    with pytest.raises(MismatchError, match="9 outputs for agent_0, which has 5 actions"):
        load(f"epymarl:{tmp_path}", SPREAD)


def test_a_value_based_expert_acts_epsilon_greedily():
    file = checkpoint(HERE / "jaxmarl_qmix_rnn", "jaxmarl")
    output = ask(load(f"jaxmarl:{file}", SPREAD), view(SPREAD))
    np.testing.assert_array_equal(output.logits.argmax(-1), output.q_values.argmax(-1))
    probabilities = np.exp(output.logits.astype(float))
    np.testing.assert_allclose(np.sort(probabilities)[..., :-1], 0.01, rtol=1e-5)
    np.testing.assert_allclose(probabilities.max(-1), 0.96, rtol=1e-5)


def test_groups_of_networks_need_names(tmp_path):
    prefix = "actor_network_params.module.0.mlp.params."
    losses = {}
    for group, width in (("red", 8), ("blue", 10)):
        sizes = {"0.weight": (4, width), "0.bias": (4,), "2.weight": (5, 4), "2.bias": (5,)}
        losses[f"loss_{group}"] = {prefix + n: torch.ones(s) for n, s in sizes.items()}
    file = tmp_path / "checkpoint_1.pt"
    torch.save(losses, file)
    with pytest.raises(MismatchError, match=r"groups red, blue: say in an expert\.toml"):
        load(f"benchmarl:{file}", ADVERSARY)
    first, *others = ADVERSARY.agents
    text = f'[groups]\nred = ["{first}"]\nblue = {json.dumps(others)}\n'
    (tmp_path / "expert.toml").write_text(text)
    expert = load(f"benchmarl:{file}", ADVERSARY)
    assert [m.agents for m in expert.policy.actors] == [(0,), (1, 2)]
    assert [m.parts.obs_width for m in expert.policy.actors] == [8, 10]
    assert ask(expert, view(ADVERSARY)).logits.shape == (2, 3, 5)


def test_networks_that_are_not_shared_have_a_leading_axis(tmp_path):
    prefix = "actor_network_params.module.0.mlp.params."
    sizes = {"0.weight": (3, 4, 18), "0.bias": (3, 4), "2.weight": (3, 5, 4), "2.bias": (3, 5)}
    loss = {prefix + n: torch.randn(s) for n, s in sizes.items()}
    torch.save({"loss_agents": loss}, tmp_path / "checkpoint_1.pt")
    expert = load(f"benchmarl:{tmp_path / 'checkpoint_1.pt'}", SPREAD)
    seen = view(SPREAD)
    x = torch.from_numpy(seen.obs[0, 1])
    x = (loss[f"{prefix}0.weight"][1] @ x + loss[f"{prefix}0.bias"][1]).tanh()
    x = loss[f"{prefix}2.weight"][1] @ x + loss[f"{prefix}2.bias"][1]
    np.testing.assert_allclose(ask(expert, seen).logits[0, 1], x, rtol=1e-5, atol=1e-5)


def test_a_mixer_says_what_the_team_is_worth(tmp_path):
    spread_qmix(tmp_path)
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    seen = view(SPREAD)
    output = ask(expert, seen)
    state, q = torch.from_numpy(seen.state), torch.from_numpy(output.q_values)
    mixer = expert.policy.mixer
    with torch.no_grad():
        best = mixer(q.amax(-1), state)
    np.testing.assert_allclose(output.q_tot_max, best, rtol=1e-5)
    np.testing.assert_array_equal(output.value, output.q_tot_max[:, None].repeat(3, axis=1))
    actions = np.array([[0, 1, 2], [4, 4, 4]])
    total, credit = output.mix(actions)
    taken = q.gather(-1, torch.from_numpy(actions)[..., None])[..., 0].requires_grad_()
    again = mixer(taken, state)
    np.testing.assert_allclose(total, again.detach(), rtol=1e-5)
    (slope,) = torch.autograd.grad(again.sum(), taken)
    np.testing.assert_allclose(credit, slope, rtol=1e-4, atol=1e-6)
    assert normalised(expert)
    assert expert.describe().architecture["mixer"] == "qmix"
    bare = load(f"epymarl:{tmp_path}", SPREAD, with_value=False)
    assert (ask(bare, seen).mix, ask(bare, seen).value) == (None, None)


def test_a_mixer_without_the_state_that_it_needs_is_refused(tmp_path):
    spread_qmix(tmp_path, state=48)
    with pytest.raises(MismatchError, match=r"reads a state of 48 numbers, and mpe/.* has 54"):
        load(f"epymarl:{tmp_path}", SPREAD)
    (tmp_path / "expert.toml").write_text('algorithm = "iql"\n')
    output = ask(load(f"epymarl:{tmp_path}", SPREAD), view(SPREAD))
    assert (output.mix, output.value, output.q_tot_max) == (None, None, None)
    assert output.q_values is not None


def test_without_a_mixers_file_values_are_added(tmp_path):
    spread_qmix(tmp_path)
    (tmp_path / "mixer.th").unlink()
    (tmp_path / "config.json").write_text('{"name": "vdn", "obs_agent_id": true}')
    expert = load(f"epymarl:{tmp_path}", SPREAD)
    output = ask(expert, view(SPREAD))
    np.testing.assert_allclose(output.q_tot_max, output.q_values.max(-1).sum(-1), rtol=1e-5)
    assert (output.mix(np.zeros((2, 3), np.int64))[1] == 1).all()
    assert expert.describe().architecture["mixer"] == "vdn"
    (tmp_path / "config.json").write_text('{"name": "iql", "obs_agent_id": true}')
    assert ask(load(f"epymarl:{tmp_path}", SPREAD), view(SPREAD)).mix is None


def test_sides_are_not_mixed_together(tmp_path):
    spread_qmix(tmp_path, obs=10, agents=3)
    spec = ADVERSARY.model_copy(update={"obs_widths": (10, 10, 10)})
    expert = load(f"epymarl:{tmp_path}", spec)
    assert any("a mixer for each of the sides" in what for what in expert.missing)
    assert expert.describe().value_of == ""

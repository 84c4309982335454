"""Checkpoints that other libraries wrote give the outputs that those libraries gave."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_offline.distributions.categorical import Categorical
from kd_offline.experts.importers.load import load
from kd_offline.networks.mixers import vdn
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import View

HERE = Path(__file__).parent / "foreign_experts"
# More of the same kind, such as the ones that are too large for the repository.
MORE = os.environ.get("KD_OFFLINE_FOREIGN_EXPERTS")
PREFIX = {"EPyMARL": "epymarl", "PyMARL2": "pymarl2", "on-policy": "on-policy"}
PREFIX |= {"BenchMARL": "benchmarl", "JaxMARL": "jaxmarl"}
FOLDERS = [HERE, *([Path(MORE)] if MORE else [])]
CASES = sorted({p.parent.name: p.parent for f in FOLDERS for p in f.glob("*/io.npz")}.items())


def assert_near(got, want, unit=1.0):
    """Compare to 1e-5 of the unit in which the values are stated, and of the values."""
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * unit)


def unit_of(values):
    """Return the unit of values of states: they are sums and averages of numbers of this size."""
    return max(1.0, float(np.abs(values).max()))


def task(meta, io):
    """Return an environment of the case's sizes."""
    n, o, a = meta["n_agents"], meta["obs_dim"], meta["n_actions"]
    agents = tuple(f"agent_{i}" for i in range(n))
    return EnvironmentSpec(
        id=f"test/{meta['case']}",
        version="1",
        agents=agents,
        obs_widths=(o,) * n,
        action_counts=(a,) * n,
        action_names=(tuple(map(str, range(a))),) * n,
        episode_limit=10,
        reward="team",
        sides={"agents": agents},
        state_width=states(io).shape[-1],
        state_is_obs=False,
        blocks={agent: {"all": ((0, o),)} for agent in agents},
    )


def states(io):
    """Return the state as each agent's critic sees it: [T, N, S]."""
    if "share_obs" in io:
        return io["share_obs"]
    n = io["obs"].shape[1]
    state = io["state"] if "state" in io else io["obs"].reshape(len(io["obs"]), -1)
    return np.repeat(state[:, None], n, axis=1)


def kept(io):
    """Return where memory is carried into a step, bool [T, N]."""
    if "masks" in io:
        return io["masks"][..., 0] > 0
    if "dones" in io:
        return ~io["dones"]
    if "is_init" in io:
        return np.repeat(~io["is_init"][:, None], io["obs"].shape[1], axis=1)
    return np.ones(io["obs"].shape[:2], bool)


def checkpoint(folder, library):
    if library == "benchmarl":
        return next(folder.glob("*.pt"))
    return next(folder.glob("*.safetensors")) if library == "jaxmarl" else folder


def opened(name, tmp_path=None):
    folder = dict(CASES)[name]
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    with np.load(folder / "io.npz") as file:
        io = dict(file)
    library = PREFIX[meta["library"]]
    spec, recipe = task(meta, io), None
    if tmp_path is not None:  # resets within the sequence come in as deaths
        recipe = tmp_path / "recipe.toml"
        recipe.write_text('hidden_reset = "death"\n')
    return load(f"{library}:{checkpoint(folder, library)}", spec, recipe), spec, io, meta


def played(expert, io):
    """Step through the case in as many copies as agents; copy ``i`` has agent ``i``'s state."""
    n = io["obs"].shape[1]
    memory = expert.start(np.zeros(n, np.uint64))
    outputs, memories = [], []
    for t in range(len(io["obs"])):

        def copies(values):
            return np.repeat(values[None], n, axis=0)

        view = View(
            obs=copies(io["obs"][t]),
            state=states(io)[t],
            available_actions=copies(io["avail_actions"][t] > 0),
            alive=copies(kept(io)[t]),
            last_actions=copies(io["last_actions"][t]),
        )
        output, memory = expert.act(view, memory)
        outputs.append(output)
        memories.append(memory.own)
    return outputs, memories


def hidden_of(memory, n):
    """Return the actors' memory of the first copy, [N, layers * H]; None without any."""
    held = [m for m in memory.actors if m.numel()]
    parts = [m.reshape(m.shape[0], n, -1, m.shape[-1])[:, 0] for m in held]
    return torch.cat(parts, dim=1).transpose(0, 1).flatten(1).numpy() if parts else None


def test_every_library_is_here():
    assert {name.split("_")[0] for name, _ in CASES} == {
        "epymarl",
        "pymarl2",
        "onpolicy",
        "benchmarl",
        "jaxmarl",
    }


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_stepwise_outputs_are_the_librarys(name, tmp_path):
    expert, _, io, meta = opened(name, tmp_path)
    outputs, memories = played(expert, io)
    n = io["obs"].shape[1]
    diagonal = np.arange(n)
    key = "q_values" if "q_values" in io else "logits"
    said = np.stack([getattr(o, key)[0] for o in outputs])
    assert_near(said, io[key])
    legal = io["avail_actions"] > 0
    acting = np.stack([o.logits[0] for o in outputs])
    np.testing.assert_array_equal(Categorical(acting, legal).mode(), io["greedy_actions"])
    if "probs" in io:
        probs = np.exp(Categorical(acting, legal).log_probabilities)
        assert_near(probs, io["probs"])
    if "hidden" in io and hidden_of(memories[0], n) is not None:
        hidden = np.stack([hidden_of(m, n) for m in memories])
        assert_near(hidden, io["hidden"].reshape(hidden.shape))
    if "values" in io:
        value = np.stack([o.value[diagonal, diagonal] for o in outputs])
        raw = expert.policy.statistics is not None
        want = io["values_denorm" if raw else "values"]
        assert_near(value, want, unit_of(want))
        assert raw == ("not" not in meta["critic"].get("stats_location", "not saved").lower())
    elif "q_tot_max" in io:
        acted = np.nan_to_num(io["actions"]).astype(np.int64)[:, None]
        unit = unit_of(io["q_tot_max"])
        assert_near(np.stack([o.q_tot_max[0] for o in outputs]), io["q_tot_max"], unit)
        assert_near(np.stack([o.value[0, 0] for o in outputs]), io["q_tot_max"], unit)
        taken = [o.mix(np.repeat(a, n, axis=0)) for o, a in zip(outputs, acted, strict=True)]
        assert_near(np.stack([total[0] for total, _ in taken]), io["q_tot_taken"], unit)
        assert all((credit >= 0).all() for _, credit in taken)
    else:
        assert all(o.value is None for o in outputs)


@pytest.mark.parametrize("name", [name for name, _ in CASES if "qmix" in name or "vdn" in name])
def test_mixers_are_the_librarys(name):
    expert, _, io, _ = opened(name)
    state = torch.from_numpy(states(io)[:, 0])
    q_taken, q_max = (torch.from_numpy(io[key]) for key in ("q_taken", "q_max"))
    if "vdn" in name:
        assert expert.policy.mixer is None
        assert_near(vdn(q_taken), io["q_tot_taken"], unit_of(io["q_tot_taken"]))
        return
    mixer = expert.policy.mixer
    assert_near(mixer(q_taken, state), io["q_tot_taken"], unit_of(io["q_tot_taken"]))
    assert_near(mixer(q_max, state), io["q_tot_max"], unit_of(io["q_tot_max"]))


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_the_recipe_is_what_the_case_states(name):
    expert, _, io, meta = opened(name)
    words = {"last_action_onehot": "last_action", "agent_id_onehot": "agent_id"}
    stated = [part.split(" ")[0] for part in meta["input_order"]]
    assert list(expert.recipe.inputs) == [words.get(part, part) for part in stated]
    assert expert.recipe.output == ("q_values" if "q_values" in io else "logits")
    assert expert.record.parameters == sum(m.network.count()[0] for m in expert.policy.actors)
    assert (expert.recipe.critic_inputs is None) == ("values" not in io)

"""Vaults that flashbax itself reads and writes."""

import numpy as np
import pytest

from kd_offline import ExpertBuffer, convert, verify
from kd_offline.testing.factories import environment_spec, tiny_dataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
EPISODES, LENGTH, AGENTS, WIDTH, ACTIONS = 3, 10, 3, 4, 5


def test_flashbax_reads_what_we_write(tmp_path):
    from flashbax.vault import Vault

    spec = environment_spec((6, 4, 5), (5, 3, 4), state_width=7)
    buffer = tiny_dataset(tmp_path / "a.zarr", 6, spec=spec)
    convert(buffer.path, tmp_path / "spread.vlt")
    vault = Vault("spread.vlt", rel_dir=str(tmp_path), vault_uid="Expert")
    assert vault.vault_index == buffer.n_steps
    got = vault.read().experience
    ends = {
        "terminals": buffer.read("steps/terminated"),
        "truncations": buffer.read("steps/truncated"),
    }
    for name, values in ends.items():
        assert np.array_equal(got[name][0], np.repeat(values[:, None], 3, axis=1))
    for ours, theirs in {"obs": "observations", "actions": "actions", "reward": "rewards"}.items():
        assert np.array_equal(got[theirs][0], buffer.read(f"steps/{ours}"))
    names = {"available_actions": "legals", "state": "state"} | {
        name: f"kd_{name}"
        for name in ("alive", "logits", "embedding", "value", "behaviour_logprob", "action_source")
    }
    for ours, theirs in names.items():
        values = buffer.read(f"steps/{ours}")
        assert got["infos"][theirs].dtype == values.dtype
        assert np.array_equal(got["infos"][theirs][0], values), theirs
    last = np.cumsum(buffer.episodes("length")) - 1
    assert np.array_equal(got["infos"]["kd_final_obs"][0][last], buffer.read("final/obs"))
    halves = np.asarray(got["infos"]["kd_episode_seed"][0][last]).astype(np.uint64)
    seeds = halves[:, 0] | halves[:, 1] << np.uint64(32)
    assert np.array_equal(seeds, buffer.episodes("seed"))


def written(folder, played):
    """Let flashbax write a vault of streams of steps, [B, T, ...]."""
    import flashbax
    import jax
    from flashbax.vault import Vault

    streams, steps = played["actions"].shape[:2]
    store = flashbax.make_trajectory_buffer(
        add_batch_size=streams,
        sample_batch_size=1,
        sample_sequence_length=1,
        period=1,
        min_length_time_axis=1,
        max_length_time_axis=64,
    )
    state = store.init(jax.tree.map(lambda x: x[0, 0], played))
    state = store.add(state, jax.tree.map(lambda x: jax.numpy.asarray(x), played))
    vault = Vault(
        "toy.vlt", experience_structure=state.experience, rel_dir=str(folder), vault_uid="Good"
    )
    assert vault.write(state) == steps


def test_we_read_what_flashbax_writes(tmp_path):
    rng = np.random.default_rng(0)
    streams, steps = 2, EPISODES * LENGTH + 4
    shape = (streams, steps, AGENTS)
    played = {
        "observations": rng.standard_normal((*shape, WIDTH)).astype(np.float32),
        "actions": rng.integers(0, ACTIONS, shape).astype(np.int32),
        "rewards": rng.standard_normal(shape).astype(np.float32),
        "terminals": np.broadcast_to((np.arange(steps) % LENGTH == LENGTH - 1)[:, None], shape),
        "truncations": np.zeros(shape, bool),
        "infos": {
            "legals": np.ones((*shape, ACTIONS), bool),
            "state": rng.standard_normal((streams, steps, 7)).astype(np.float32),
        },
    }
    written(tmp_path, played)
    done = convert(tmp_path / "toy.vlt", tmp_path / "toy.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert verify(done.path).ok
    assert (done.episodes, done.steps) == (streams * EPISODES, streams * EPISODES * LENGTH)
    whole = EPISODES * LENGTH
    for ours, theirs in {"obs": "observations", "actions": "actions", "reward": "rewards"}.items():
        expected = np.concatenate(played[theirs][:, :whole])
        assert np.array_equal(buffer.read(f"steps/{ours}"), expected)
    state_rows = np.concatenate(played["infos"]["state"][:, :whole])
    assert np.array_equal(buffer.read("steps/state"), state_rows)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_legal_actions_under_another_name_and_one_hot_actions(tmp_path, dtype):
    rng = np.random.default_rng(0)
    shape = (1, 20, AGENTS)
    actions = rng.integers(0, ACTIONS, shape)
    legal = np.maximum(rng.random((*shape, ACTIONS)) < 0.5, np.eye(ACTIONS)[actions] == 1)
    played = {
        "observations": rng.standard_normal((*shape, WIDTH)).astype(np.float32),
        "actions": np.eye(ACTIONS)[actions].astype(dtype),
        "rewards": rng.standard_normal(shape).astype(np.float32),
        "terminals": np.broadcast_to((np.arange(20) % 10 == 9)[:, None], shape),
        "infos": {"avail_actions": legal.astype(dtype)},
    }
    written(tmp_path, played)
    done = convert(tmp_path / "toy.vlt", tmp_path / "toy.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert np.array_equal(buffer.read("steps/actions"), actions[0])
    assert np.array_equal(buffer.read("steps/available_actions"), legal[0])

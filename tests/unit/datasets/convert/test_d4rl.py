"""Flat HDF5 in the manner of D4RL: one agent, or all of them joined."""

import h5py
import numpy as np
import pytest

from kd_offline import ExpertBuffer, convert, verify
from kd_offline.errors import KdOfflineError
from kd_offline.testing.factories import environment_spec


def back(path, tmp_path, **options):
    done = convert(path, tmp_path / "back.zarr", **options)
    assert verify(done.path).problems == ()
    return done, ExpertBuffer.open(done.path)


def test_all_agents_joined(rich, tmp_path):
    done = convert(rich.path, tmp_path / "x.h5", to="d4rl")
    with h5py.File(tmp_path / "x.h5") as file:
        got = {name: file[name][()] for name in file if name not in ("infos", "metadata")}
        logits = file["infos/logits"][()]
    assert got["observations"].shape == (rich.n_steps, 6 + 4 + 5)
    assert got["actions"].shape == (rich.n_steps, 3)
    assert np.array_equal(logits, rich.read("steps/logits"))
    assert np.allclose(got["rewards"], rich.read("steps/reward").mean(axis=1))
    ends = got["terminals"] | got["timeouts"]
    assert np.array_equal(np.flatnonzero(ends) + 1, np.cumsum(rich.episodes("length")))
    assert np.array_equal(got["terminals"], rich.read("steps/terminated"))
    assert any("mean over the agents of side team" in note for note in done.notes)
    again, buffer = back(tmp_path / "x.h5", tmp_path)
    assert again.not_held == ()
    assert buffer.spec == rich.spec
    assert buffer.manifest.experts == rich.manifest.experts
    for name in (n for n in done.kept if n not in ("episodes/offset",)):
        assert np.array_equal(buffer.read(name), rich.read(name)), name


def test_next_observations_join_steps_and_ends(rich, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_offline.datasets.convert.parts.windows.__defaults__", (5,))
    convert(rich.path, tmp_path / "x.h5", to="d4rl", agent="agent_2")
    with h5py.File(tmp_path / "x.h5") as file:
        after, now = file["next_observations"][()], file["observations"][()]
    stops = np.cumsum(rich.episodes("length"))
    inner = np.setdiff1d(np.arange(rich.n_steps), stops - 1)
    assert np.array_equal(after[inner], now[inner + 1])
    assert np.array_equal(after[stops - 1], rich.read("final/obs")[:, 2, :5])


def test_one_agent(rich, tmp_path):
    done = convert(rich.path, tmp_path / "x.h5", to="d4rl", agent="agent_1")
    assert {"agent agent_0", "agent agent_2"} <= {item.array for item in done.not_held}
    _, buffer = back(tmp_path / "x.h5", tmp_path)
    assert (buffer.spec.agents, buffer.spec.obs_widths) == (("agent_1",), (4,))
    assert np.array_equal(buffer.read("steps/obs")[:, 0], rich.read("steps/obs")[:, 1, :4])
    assert np.array_equal(buffer.read("steps/reward")[:, 0], rich.read("steps/reward")[:, 1])
    logits = rich.read("steps/logits")[:, 1, :3]
    assert np.array_equal(buffer.read("steps/logits")[:, 0], logits)


def test_a_state_of_its_own_comes_back(bare, tmp_path):
    for agent in (None, "agent_1"):
        convert(bare.path, tmp_path / "x.h5", to="d4rl", agent=agent, overwrite=True)
        _, buffer = back(tmp_path / "x.h5", tmp_path, overwrite=True)
        assert np.array_equal(buffer.read("steps/state"), bare.read("steps/state"))
        assert not buffer.has("final/obs")


def flat(path, rows=25, **changes):
    """A file of somebody else: two episodes and an unfinished one."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.standard_normal((rows, 6)).astype(np.float32),
        "actions": rng.integers(0, 4, rows),
        "rewards": rng.standard_normal(rows).astype(np.float32),
        "terminals": np.arange(rows) == 9,
        "timeouts": np.arange(rows) == 19,
    }
    with h5py.File(path, "w") as file:
        for name, values in (arrays | changes).items():
            if values is not None:
                file[name] = values
    return arrays


def test_a_file_of_somebody_else(tmp_path):
    arrays = flat(tmp_path / "walker.hdf5", **{"infos/qpos": np.zeros((25, 2))})
    done, buffer = back(tmp_path / "walker.hdf5", tmp_path)
    assert (done.episodes, done.steps) == (2, 20)
    assert [item.array for item in done.not_held] == ["infos/qpos"]
    assert "5 steps after the last end of an episode were left out" in done.notes
    assert buffer.spec.id == "walker"
    assert buffer.spec.action_counts == (4,)
    assert np.array_equal(buffer.read("steps/obs")[:, 0], arrays["observations"][:20])
    assert np.flatnonzero(buffer.read("steps/truncated")).tolist() == [19]


def test_columns_and_missing_timeouts(tmp_path):
    column = np.arange(25)[:, None]
    flat(
        tmp_path / "x.hdf5",
        actions=column % 3,
        rewards=column.astype(np.float64),
        terminals=(column == 24).astype(np.uint8),
        timeouts=None,
    )
    done, buffer = back(tmp_path / "x.hdf5", tmp_path)
    assert done.steps == 25
    assert "there are no timeouts: every end is a termination" in done.notes
    assert [item.array for item in done.not_held] == ["rewards"]
    assert buffer.read("steps/reward")[:, 0].tolist() == list(range(25))


def test_several_agents_need_an_environment(tmp_path):
    flat(tmp_path / "x.hdf5", actions=np.zeros((25, 2), np.int64))
    with pytest.raises(KdOfflineError, match="which features are whose"):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr")
    spec = environment_spec((2, 4))
    _, buffer = back(tmp_path / "x.hdf5", tmp_path, spec=spec)
    assert buffer.spec == spec


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"[" * 100000])
def test_a_damaged_description(tmp_path, text):
    flat(tmp_path / "x.hdf5", **{"metadata/kd_offline": np.frombuffer(text, np.uint8)})
    with pytest.raises(KdOfflineError, match="metadata/kd_offline in it is damaged"):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr")

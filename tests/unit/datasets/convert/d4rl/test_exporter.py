"""Export to flat HDF5, of one agent or of all of them joined, and back."""

import h5py
import numpy as np

from kd_offline import ExpertBuffer, convert, verify


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
    monkeypatch.setattr("kd_offline.datasets.convert.interchange.row_ranges.__defaults__", (5,))
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


def seen(path, tmp_path, **options):
    """What a file is read as: the actions, and the notes and losses about it."""
    done, buffer = back(path, tmp_path, **options)
    return buffer, " | ".join((*done.notes, *(f"{x.array}: {x.why}" for x in done.not_held)))


def test_an_end_that_is_both_stays_both(tmp_path):
    ends = np.arange(25) % 10 == 9
    flat(tmp_path / "x.hdf5", terminals=ends, timeouts=ends)
    buffer, _ = seen(tmp_path / "x.hdf5", tmp_path)
    for name in ("terminated", "truncated"):
        assert np.flatnonzero(buffer.read(f"steps/{name}")).tolist() == [9, 19]

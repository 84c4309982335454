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


def seen(path, tmp_path, **options):
    """What a file is read as: the actions, and the notes and losses about it."""
    done, buffer = back(path, tmp_path, **options)
    return buffer, " | ".join((*done.notes, *(f"{x.array}: {x.why}" for x in done.not_held)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_, np.int8, np.uint64])
@pytest.mark.parametrize("shape", [(25,), (25, 1)])
def test_discrete_actions_are_kept_as_any_type_of_number(tmp_path, dtype, shape):
    actions = (np.arange(25) % 2).reshape(shape)
    flat(tmp_path / "x.hdf5", actions=actions.astype(dtype))
    buffer, said = seen(tmp_path / "x.hdf5", tmp_path)
    assert buffer.spec.action_counts == (2,)
    assert np.array_equal(buffer.read("steps/actions")[:, 0], actions.reshape(-1)[:20])
    whole = np.dtype(dtype).kind in "iu"
    assert ("count as discrete" in said) is not whole


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, r"continuous \(float32, 0.5"),
        (np.nan, "continuous"),
        (np.inf, "continuous"),
        (-1.0, "below zero"),
        (1e20, "no number of an action"),
    ],
)
def test_one_value_that_is_no_action_makes_them_continuous(tmp_path, value, words):
    actions = np.zeros(25, np.float32)
    actions[7] = value
    flat(tmp_path / "x.hdf5", actions=actions)
    with pytest.raises(KdOfflineError, match=words):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_one_hot_actions_are_the_place_of_the_one(tmp_path, dtype):
    actions = np.arange(25) % 3
    flat(tmp_path / "x.hdf5", actions=np.eye(4)[actions].astype(dtype))
    buffer, said = seen(tmp_path / "x.hdf5", tmp_path)
    assert buffer.spec.action_counts == (4,)
    assert np.array_equal(buffer.read("steps/actions")[:, 0], actions[:20])
    assert "its place is the action" in said


def test_two_continuous_actions_are_refused(tmp_path):
    flat(tmp_path / "x.hdf5", actions=np.ones((25, 2), np.float32))
    with pytest.raises(KdOfflineError, match=r"continuous \(float32 \[25, 2\]\)"):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr")


@pytest.mark.parametrize("name", ["infos/action_mask", "infos/legal_actions", "available_actions"])
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float32])
def test_legal_actions_of_others_are_read(tmp_path, name, dtype):
    actions = np.arange(25) % 3
    legal = np.ones((25, 5))
    legal[::2, 4] = 0
    flat(tmp_path / "x.hdf5", actions=actions, **{name: legal.astype(dtype)})
    buffer, said = seen(tmp_path / "x.hdf5", tmp_path)
    assert buffer.spec.action_counts == (5,), "the mask says how many actions there are"
    assert np.array_equal(buffer.read("steps/available_actions")[:, 0], legal[:20] == 1)
    assert f"{name} says which actions are legal" in said
    assert "every action counts as legal" not in said


def test_executed_actions_that_were_not_legal_are_told(tmp_path):
    legal = np.ones((25, 3), bool)
    legal[4, 1] = False
    flat(tmp_path / "x.hdf5", actions=np.arange(25) % 3, **{"infos/action_mask": legal})
    buffer, said = seen(tmp_path / "x.hdf5", tmp_path)
    assert buffer.read("steps/available_actions").all()
    assert "infos/action_mask: 1 executed actions were not legal by it" in said


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (1 - np.eye(3)[np.arange(25) % 3], "25|20 of 20 executed actions are illegal"),
        (np.where(np.eye(3)[np.arange(25) % 3] == 1, 0, -np.inf), "hold -inf"),
        (np.full((25, 3), np.nan), "hold nan"),
        (np.full((25, 3), 2), "hold 2"),
        (np.ones((25, 2)), r"has shape \[25, 2\]"),
        (np.ones((25, 2, 3)), r"has shape \[25, 2, 3\]"),
        (np.ones(25), r"has shape \[25\]"),
    ],
    ids=["inverted", "additive", "nan", "numbers", "narrow", "agents", "flat"],
)
def test_a_mask_that_means_something_else_is_refused(tmp_path, mask, words):
    flat(tmp_path / "x.hdf5", actions=np.arange(25) % 3, **{"infos/action_mask": mask})
    with pytest.raises(KdOfflineError, match=words):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr")
    assert not (tmp_path / "y.zarr").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terminals": None, "timeouts": None}, "no dataset 'terminals'"),
        ({"terminals": np.zeros(25), "timeouts": np.zeros(25)}, "no episode ends"),
        ({"terminals": np.full(25, 0.3)}, "terminals hold 0.3"),
        ({"timeouts": np.full(25, np.nan)}, "timeouts hold nan"),
        ({"rewards": np.zeros((25, 3))}, "rewards have shape"),
    ],
)
def test_flags_and_rewards_that_are_none(tmp_path, changes, words):
    flat(tmp_path / "x.hdf5", **changes)
    with pytest.raises(KdOfflineError, match=words):
        convert(tmp_path / "x.hdf5", tmp_path / "y.zarr", source_format="d4rl")


def test_integer_rewards_that_float32_cannot_hold_are_told(tmp_path):
    rewards = np.arange(25, dtype=np.int32)
    flat(tmp_path / "x.hdf5", rewards=rewards)
    buffer, said = seen(tmp_path / "x.hdf5", tmp_path)
    assert buffer.read("steps/reward")[:, 0].tolist() == list(range(20))
    assert "rewards" not in said
    flat(tmp_path / "y.hdf5", rewards=rewards + (1 << 24))
    assert (
        "rewards: int32 values were rounded"
        in seen(tmp_path / "y.hdf5", tmp_path, overwrite=True)[1]
    )

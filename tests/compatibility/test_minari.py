"""Datasets that Minari itself reads and makes."""

import gc
import warnings

import gymnasium as gym
import numpy as np
import pytest

from kd_offline import ExpertBuffer, convert, verify
from kd_offline.errors import KdOfflineError
from kd_offline.testing.factories import environment_spec, tiny_dataset

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari", "ignore::DeprecationWarning")
DESCRIBED = {
    "algorithm_name": "random",
    "author": "tests",
    "author_email": "tests@example.org",
    "code_permalink": "none",
    "description": "made by a test",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def test_minari_reads_what_we_write(root, tmp_path):
    spec = environment_spec((6, 4, 5), (5, 3, 4))
    buffer = tiny_dataset(tmp_path / "a.zarr", 6, spec=spec)
    convert(buffer.path, root / "spread-v0")
    assert list(minari.list_local_datasets()) == ["spread-v0"]
    dataset = minari.load_dataset("spread-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (6, buffer.n_steps)
    assert dataset.observation_space["agent_1"].shape == (4,)
    assert dataset.action_space["agent_2"].n == 4
    metadata = list(dataset.storage.get_episode_metadata(range(6)))
    assert [m["seed"] for m in metadata] == buffer.episodes("seed").tolist()
    for episode in dataset.iterate_episodes():
        rows = slice(*(buffer.episodes("offset")[episode.id] + np.array([0, len(episode.rewards)])))
        for n, agent in enumerate(spec.agents):
            width = spec.obs_widths[n]
            observed = episode.observations[agent]
            assert np.array_equal(observed[:-1], buffer.read("steps/obs")[rows, n, :width])
            assert np.array_equal(observed[-1], buffer.read("final/obs")[episode.id, n, :width])
            assert dataset.observation_space[agent].contains(observed[0])
            assert np.array_equal(episode.actions[agent], buffer.read("steps/actions")[rows, n])
        for name in ("logits", "embedding", "value", "available_actions", "reward"):
            assert np.array_equal(episode.infos[name][:-1], buffer.read(f"steps/{name}")[rows])
        assert np.array_equal(episode.terminations, buffer.read("steps/terminated")[rows])
        assert np.array_equal(episode.truncations, buffer.read("steps/truncated")[rows])


def two_agents(k, **changes):
    rng = np.random.default_rng(k)
    given = {
        "id": k,
        "seed": 5 + k,
        "observations": {
            "scout": rng.random((7, 3)).astype(np.float32),
            "tank": rng.random((7, 2)).astype(np.float32),
        },
        "actions": {"scout": rng.integers(0, 4, 6), "tank": rng.integers(0, 3, 6)},
        "rewards": [0.5] * 6,
        "terminations": [False] * 5 + [k % 2 == 0],
        "truncations": [False] * 5 + [k % 2 == 1],
        "infos": {"height": np.arange(7)},
    }
    return minari.data_collector.EpisodeBuffer(**(given | changes))


SPACES = {
    "observation_space": gym.spaces.Dict(
        scout=gym.spaces.Box(0, 1, (3,)), tank=gym.spaces.Box(0, 1, (2,))
    ),
    "action_space": gym.spaces.Dict(scout=gym.spaces.Discrete(4), tank=gym.spaces.Discrete(3)),
}


def made(name, buffers, **changes):
    minari.create_dataset_from_buffers(name, buffers, **(SPACES | DESCRIBED | changes))


def test_we_read_what_minari_makes(root, tmp_path):
    episodes = [two_agents(k) for k in range(4)]
    made("two-v1", episodes)
    done = convert(root / "two-v1", tmp_path / "two.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert verify(done.path).ok
    assert (done.source_kind, done.episodes, done.steps) == ("minari", 4, 24)
    assert [item.array for item in done.not_held] == ["infos/height"]
    spec = buffer.spec
    assert (spec.id, spec.agents, spec.obs_widths) == ("two-v1", ("scout", "tank"), (3, 2))
    assert (spec.action_counts, spec.reward) == ((4, 3), "team")
    assert buffer.episodes("seed").tolist() == [5, 6, 7, 8]
    observed = np.stack([e.observations["scout"] for e in episodes])
    assert np.array_equal(buffer.read("steps/obs")[:, 0], observed[:, :-1].reshape(24, 3))
    assert np.array_equal(buffer.read("final/obs")[:, 0], observed[:, -1])
    tank = np.concatenate([e.actions["tank"] for e in episodes])
    assert np.array_equal(buffer.read("steps/actions")[:, 1], tank)
    assert np.flatnonzero(buffer.read("steps/terminated")).tolist() == [5, 17]


class Corridor(gym.Env):  # type: ignore[misc]
    observation_space = gym.spaces.Dict(
        cell=gym.spaces.Discrete(5), place=gym.spaces.Box(-1, 1, (2,))
    )
    action_space = gym.spaces.Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._view(), {}

    def step(self, action):
        self.time += 1
        return self._view(), float(action), self.time == 4, False, {}

    def _view(self):
        return {"cell": self.time % 5, "place": np.full(2, self.time / 4, np.float32)}


def collect_corridor():
    with warnings.catch_warnings():  # the collector leaves its temporary folders behind
        warnings.simplefilter("ignore")
        collector = minari.DataCollector(Corridor())
        for seed in range(3):
            collector.reset(seed=seed)
            for action in (1, 2, 3, 1):
                collector.step(action)
        collector.create_dataset("corridor-v0", **DESCRIBED)
        del collector
        gc.collect()


def test_one_agent_from_the_data_collector(root, tmp_path):
    collect_corridor()
    done = convert(root / "corridor-v0", tmp_path / "c.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert verify(done.path).ok
    assert buffer.spec.blocks == {"agent_0": {"cell": ((0, 5),), "place": ((5, 7),)}}
    assert buffer.read("steps/actions")[:4, 0].tolist() == [0, 1, 2, 0]
    assert buffer.read("steps/reward")[:4, 0].tolist() == [1, 2, 3, 1]
    assert buffer.read("steps/obs")[1, 0].tolist() == [0, 1, 0, 0, 0, 0.25, 0.25]
    assert buffer.read("final/obs")[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert buffer.episodes("seed").tolist() == [0, 1, 2]


def test_without_an_end_the_last_step_is_truncated(root, tmp_path):
    made("open-v0", [two_agents(0, terminations=[False] * 6, rewards=[0.1] * 6, seed=None)])
    done = convert(root / "open-v0", tmp_path / "o.zarr")
    assert "1 episodes have no end: their last step counts as truncated" in done.notes
    assert "not every episode has a seed: none were taken" in done.notes
    assert [item.array for item in done.not_held] == ["rewards", "infos/height"]
    assert ExpertBuffer.open(done.path).read("steps/truncated").tolist() == [False] * 5 + [True]


BOX = gym.spaces.Box(0, 1, (2,))
PICTURE = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
ODD = {
    "continuous": (
        {"observation_space": BOX, "action_space": BOX},
        {"observations": np.zeros((7, 2), np.float32), "actions": np.zeros((6, 2), np.float32)},
        "of a Box space, not Discrete",
    ),
    "images": (
        {"observation_space": PICTURE, "action_space": gym.spaces.Discrete(2)},
        {"observations": np.zeros((7, 32, 32, 3), np.uint8), "actions": np.zeros(6, np.int64)},
        "observations hold images",
    ),
    "goes on": ({}, {"terminations": [False, True, False, False, False, True]}, "goes on after"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_read_is_one_sentence(root, tmp_path, name):
    spaces, changes, words = ODD[name]
    made("odd-v0", [two_agents(0, **changes)], **spaces)
    with pytest.raises(KdOfflineError, match=words) as caught:
        convert(root / "odd-v0", tmp_path / "odd.zarr")
    assert "\n" not in str(caught.value)


def test_other_storages_of_minari_are_told(root, tmp_path):
    made("two-v0", [two_agents(0)])
    file = root / "two-v0" / "data" / "metadata.json"
    file.write_text(file.read_text().replace('"hdf5"', '"arrow"'))
    with pytest.raises(KdOfflineError, match="kept as 'arrow', not as hdf5; store it as hdf5"):
        convert(root / "two-v0", tmp_path / "two.zarr")


def masked(k, mask, observed=None, **changes):
    """One agent that sees three numbers and its legal actions."""
    given = {
        "observations": {"observation": np.full((7, 3), k, np.float32), "action_mask": mask}
        if observed is None
        else observed,
        "actions": np.array([1, 2, 3, 1, 2, 3]),
        "infos": {},
    }
    return two_agents(k, **(given | changes))


def masked_space(mask):
    observed = gym.spaces.Dict(observation=gym.spaces.Box(-9, 9, (3,)), action_mask=mask)
    return {"observation_space": observed, "action_space": gym.spaces.Discrete(3, start=1)}


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiBinary(3),
        gym.spaces.Box(0, 1, (3,), np.int8),
        gym.spaces.Box(0, 1, (3,), np.float32),
        gym.spaces.MultiDiscrete([2, 2, 2]),
    ],
    ids=["binary", "int8", "float32", "discrete"],
)
def test_an_action_mask_in_the_observation_is_no_feature(root, tmp_path, space):
    legal = np.ones((7, 3), space.dtype)
    legal[0, 2], legal[5, 0] = 0, 0
    made("masked-v0", [masked(k, legal) for k in range(2)], **masked_space(space))
    done = convert(root / "masked-v0", tmp_path / "m.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert verify(done.path).ok
    assert buffer.spec.obs_widths == (3,)
    assert buffer.spec.blocks == {"agent_0": {"observation": ((0, 3),)}}
    assert np.array_equal(buffer.read("steps/available_actions")[:6, 0], legal[:-1] == 1)
    assert "observations/action_mask says which actions of agent_0 are legal" in done.notes
    assert not any("every action counts as legal" in note for note in done.notes)
    assert done.not_held == ()


def test_masks_of_several_agents_and_agents_without_one(root, tmp_path):
    spaces = {
        "observation_space": gym.spaces.Dict(
            scout=gym.spaces.Dict(
                observation=gym.spaces.Box(0, 1, (3,)), action_mask=gym.spaces.MultiBinary(4)
            ),
            tank=gym.spaces.Box(0, 1, (2,)),
        )
    }
    legal = np.ones((7, 4), np.int8)
    legal[:, 3] = 0
    base = two_agents(0)
    base.observations["scout"] = {"observation": base.observations["scout"], "action_mask": legal}
    base.actions["scout"] %= 3
    made("pair-v0", [base], **spaces)
    done = convert(root / "pair-v0", tmp_path / "p.zarr")
    found = ExpertBuffer.open(done.path).read("steps/available_actions")
    assert found[:, 0].sum(axis=1).tolist() == [3] * 6
    assert found[:, 1].sum(axis=1).tolist() == [3] * 6
    assert "there are no legal actions of tank: every action counts as legal" in done.notes


def test_a_mask_among_the_infos(root, tmp_path):
    legal = np.ones((7, 3), np.int8)
    legal[2, 0] = 0
    plain = np.zeros((7, 3), np.float32)
    spaces = {
        "observation_space": gym.spaces.Box(-9, 9, (3,)),
        "action_space": gym.spaces.Discrete(3, start=1),
    }
    episodes = [masked(0, None, plain, infos={"action_mask": legal, "height": np.arange(7)})]
    made("infos-v0", episodes, **spaces)
    done = convert(root / "infos-v0", tmp_path / "i.zarr")
    found = ExpertBuffer.open(done.path).read("steps/available_actions")
    assert np.array_equal(found[:, 0], legal[:-1] == 1)
    assert [item.array for item in done.not_held] == ["infos/height"]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (
            1 - np.eye(3, dtype=np.int8)[[0, 1, 2, 0, 1, 2, 0]],
            "6 of 6 executed actions are illegal",
        ),
        (np.full((7, 3), 3, np.int8), "hold 3"),
    ],
)
def test_a_mask_that_means_something_else_is_refused(root, tmp_path, mask, words):
    space = gym.spaces.Box(-9, 9, (3,), np.int8)
    made("odd-v0", [masked(0, mask)], **masked_space(space))
    with pytest.raises(KdOfflineError, match=words):
        convert(root / "odd-v0", tmp_path / "odd.zarr")


def test_a_mask_of_another_width_stays_a_feature_and_is_told(root, tmp_path):
    made(
        "wide-v0", [masked(0, np.ones((7, 5), np.int8))], **masked_space(gym.spaces.MultiBinary(5))
    )
    done = convert(root / "wide-v0", tmp_path / "w.zarr")
    assert ExpertBuffer.open(done.path).spec.obs_widths == (8,)
    assert any("action_mask of agent_0 is not as wide" in note for note in done.notes)
    assert any("every action counts as legal" in note for note in done.notes)


def test_nested_and_coded_observations(root, tmp_path):
    space = gym.spaces.Dict(
        place=gym.spaces.Tuple((gym.spaces.Box(0, 1, (2,)), gym.spaces.Discrete(3, start=-1))),
        kinds=gym.spaces.MultiDiscrete([[4, 5], [6, 7]]),
    )
    observed = {
        "place": (np.full((7, 2), 0.5, np.float32), np.array([-1, 0, 1, -1, 0, 1, 1])),
        "kinds": np.tile(np.array([[1, 2], [3, 4]]), (7, 1, 1)),
    }
    spaces = {"observation_space": space, "action_space": gym.spaces.Discrete(3, start=1)}
    made("nest-v0", [masked(0, None, observed)], **spaces)
    done = convert(root / "nest-v0", tmp_path / "n.zarr")
    buffer = ExpertBuffer.open(done.path)
    assert buffer.read("steps/obs")[1, 0].tolist() == [1, 2, 3, 4, 0.5, 0.5, 0, 1, 0]
    assert any("MultiDiscrete space count as numbers" in note for note in done.notes)


def test_values_outside_of_a_discrete_space_are_refused(root, tmp_path):
    spaces = {
        "observation_space": gym.spaces.Discrete(3),
        "action_space": gym.spaces.Discrete(3, start=1),
    }
    made("out-v0", [masked(0, None, np.arange(7))], **spaces)
    with pytest.raises(KdOfflineError, match="outside of its space"):
        convert(root / "out-v0", tmp_path / "o.zarr")


def test_fractions_are_no_discrete_actions(root, tmp_path):
    plain = np.zeros((7, 3), np.float32)
    spaces = {
        "observation_space": gym.spaces.Box(-9, 9, (3,)),
        "action_space": gym.spaces.Discrete(3, start=1),
    }
    made("half-v0", [masked(0, None, plain, actions=np.full(6, 1.5))], **spaces)
    with pytest.raises(KdOfflineError, match="continuous"):
        convert(root / "half-v0", tmp_path / "h.zarr")

"""Places that are derived from observations are those of the worlds that were observed."""

from typing import Any

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.datasets import ExpertBuffer
from kd_offline.recording.record import record
from kd_offline.reports.dataset import notable_episodes, scenes
from kd_offline.testing.factories import tiny_dataset

TASKS = ("mpe/simple_spread_v3", "mpe/simple_speaker_listener_v4", "mpe/simple_adversary_v3")


@pytest.fixture(scope="module", params=TASKS)
def recorded(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("playback") / "d.zarr"
    record(request.param, path, episodes=20, batch=20, threads=1)
    return ExpertBuffer.open(path)


def replayed(buffer, episode):
    """Return places [F, N, 2] and landmarks [F, L, 2] of the worlds themselves, and the goal."""
    world: Any = environments.load(buffer.spec.id)
    world.reset(buffer.episodes("seed")[episode : episode + 1])
    inner, n, seen = world._world, buffer.spec.n_agents, []
    seen.append(inner.position[:, :, 0].T.copy())
    for actions in buffer.load(["steps/actions"], np.array([episode]))["steps/actions"]:
        world.step(actions[None].astype(np.int64))
        seen.append(inner.position[:, :, 0].T.copy())
    places = np.stack(seen)
    return places[:, :n], places[:, n:], int(inner.goal[0])


def test_scenes_are_where_everybody_was(recorded):
    found = scenes(recorded)
    assert 3 <= len(found) <= 8
    for scene in found:
        places, landmarks, goal = replayed(recorded, scene.episode)
        placed = np.isfinite(scene.places[0, :, 0])
        absolute = "own_position" in recorded.spec.blocks[recorded.spec.agents[-1]]
        shift = 0 if absolute else landmarks[0].mean(axis=0)
        wanted = (places - shift)[:, placed]
        np.testing.assert_allclose(scene.places[:, placed], wanted, atol=1e-5)
        np.testing.assert_allclose(scene.landmarks, landmarks[0] - shift, atol=1e-5)
        assert scene.goal == (None if recorded.spec.id == TASKS[0] else goal)
        assert len(scene.places) == len(scene.actions) + 1
        returned = recorded.episodes("return")[scene.episode]
        assert scene.rewards.sum() == pytest.approx(returned, rel=1e-5)
        assert f"{returned:.2f}" in scene.title


def test_the_speaker_has_no_place(recorded):
    nowhere = [
        a
        for a, x in zip(recorded.spec.agents, scenes(recorded)[0].places[0], strict=True)
        if np.isnan(x).all()
    ]
    assert nowhere == (["speaker_0"] if recorded.spec.id == TASKS[1] else [])


def test_best_median_worst_and_one_of_each_noise(recorded):
    found = notable_episodes(recorded)
    returns, levels = recorded.episodes("return"), recorded.episodes("noise_level")
    first = list(found)[:3]
    assert first[0] == returns.argmax()
    assert first[2] == returns.argmin()
    assert returns[first[1]] == np.sort(returns)[10]
    named = {levels[e] for e, why in found.items() if "noise" in why}
    assert named <= set(levels.tolist())
    assert {float(levels[e]) for e in found} == set(levels.tolist())


def test_other_environments_have_no_scenes(tmp_path):
    assert scenes(tiny_dataset(tmp_path / "d")) == ()


def test_blocks_that_are_no_places_are_left_alone(recorded):
    spec = recorded.spec
    for ranges in (((0, 3),), ((0, 4000),), ((-2, 2),), ()):
        blocks = {agent: {"landmarks": ranges} for agent in spec.agents}
        changed = ExpertBuffer(recorded.files, recorded.manifest, recorded._arrays)
        changed.manifest = recorded.manifest.model_copy(
            update={"environment": spec.model_copy(update={"blocks": blocks})}
        )
        assert scenes(changed) == ()

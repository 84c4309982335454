import sys

import numpy as np
import pytest

from kd_offline import environments
from kd_offline.datasets import ExpertBuffer, verify
from kd_offline.datasets.writing.blocks import EpisodeBlock
from kd_offline.datasets.writing.writer import DatasetWriter
from kd_offline.errors import MismatchError, MissingArrayError, MissingExtraError, UsageError
from kd_offline.recording.noise import perturbed
from kd_offline.recording.record import record
from kd_offline.recording.replay import replay
from kd_offline.recording.setup import make_block
from kd_offline.rollout.collect import collect
from kd_offline.rollout.policies import RandomPolicy
from kd_offline.schemas.dataset import RecordingHeader, RecordingRecord
from kd_offline.seeding import episode_seeds
from kd_offline.testing.factories import tiny_dataset
from kd_offline.tracking.base import FunctionObserver
from tests.unit.recording.tampering import rewritten, shifted

TASKS = ("mpe/simple_spread_v3", "mpe/simple_speaker_listener_v4", "mpe/simple_adversary_v3")
LEAVERS = "pettingzoo/tests.unit.environments.leavers:Leavers"


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "d.zarr"
    record(TASKS[0], path, episodes=30, batch=30, threads=1)
    return ExpertBuffer.open(path)


@pytest.fixture(scope="module")
def leavers(tmp_path_factory):
    """Twenty episodes of different lengths, with agents that leave."""
    return random_play(tmp_path_factory.mktemp("leavers") / "d.zarr", LEAVERS, 20, max_cycles=9)


def random_play(path, environment, count, **settings):
    world = environments.load(environment, **settings)
    seeds, levels = episode_seeds(5, 0, count), np.zeros(count, np.float32)
    played = collect(world, RandomPolicy(), seeds, perturbed(seeds, levels), without=("state",))
    world.close()
    block = make_block(played, seeds, levels)
    header = RecordingHeader(
        name="random", environment=world.spec, recording=RecordingRecord(seed=5, episodes=count)
    )
    episodes = {k: v for k, v in block.episodes.items() if k != "expert_id"}
    with DatasetWriter.create(path, header) as writer:
        writer.append(EpisodeBlock(block.steps, block.final, episodes))
        writer.commit()
    return ExpertBuffer.open(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_recording_comes_out_again_bit_for_bit(task, tmp_path):
    record(task, tmp_path / "d", episodes=12, batch=5, threads=1)
    report = replay(tmp_path / "d", 12)
    assert (report.ok, report.exact, report.first) == (True, True, None)
    assert (report.episodes, report.steps) == (12, 12 * 25)
    compared = {f"steps/{n}" for n in ("obs", "available_actions", "alive", "reward")}
    compared |= {"steps/terminated", "steps/truncated", "episodes/length", "episodes/won"}
    compared |= {"final/obs", "final/available_actions", "final/alive"}
    assert set(report.arrays) == compared
    assert {gap.max_error for gap in report.arrays.values()} == {0.0}


def test_agents_that_leave_and_ragged_episodes_come_out_again(leavers):
    assert len(set(leavers.episodes("length").tolist())) > 2
    assert not leavers.read("steps/alive").all()
    report = replay(leavers, 20, environment=LEAVERS)
    assert (report.ok, report.exact) == (True, True)
    assert report.steps == leavers.n_steps


def test_environments_of_known_libraries_need_not_be_named(tmp_path):
    task = "pettingzoo/mpe2.simple_tag_v3:parallel_env"
    report = replay(random_play(tmp_path / "d", task, 3, max_cycles=6), 3)
    assert (report.exact, report.environment, report.steps) == (True, task, 18)


def test_what_absent_agents_see_does_not_count(leavers, tmp_path):
    gone = ~leavers.read("steps/alive")

    def scribble(obs):
        obs[gone, 0] = 7.0
        return obs

    other = rewritten(leavers, tmp_path / "d", {"steps/obs": scribble})
    assert replay(other, 20, environment=LEAVERS).exact


def test_a_seeded_choice_of_episodes(spread):
    seen: list = []
    watching = FunctionObserver(progress=lambda *progress: seen.append(progress))
    report = replay(spread, 7, seed=3, observers=[watching])
    assert (report.episodes, report.steps) == (7, 7 * 25)
    assert seen[-1] == (7, 7, "episodes, replay")
    assert replay(spread, 7, seed=3) == report
    assert replay(spread, 10_000).episodes == 30


def one(place, value):
    def change(values):
        values[place] += value
        return values

    return change


def first(buffer, **settings):
    report = replay(buffer, buffer.n_episodes, **settings)
    assert not report.ok
    assert not report.exact
    return report.first


def test_one_wrong_observation_is_found_where_it_is(spread, tmp_path):
    other = rewritten(spread, tmp_path / "d", {"steps/obs": one((4 * 25 + 7, 2, 5), 0.01)})
    assert verify(other.path).ok, "only a replay can know"
    found = first(other)
    assert (found.episode, found.step, found.array) == (4, 7, "steps/obs")
    assert (found.agent, found.entry) == ("agent_2", "landmarks 1")
    assert found.stored == pytest.approx(found.got + 0.01, abs=1e-6)
    assert found.got == spread.read("steps/obs")[4 * 25 + 7, 2, 5]
    report = replay(other, 30)
    assert [name for name, gap in report.arrays.items() if not gap.ok] == ["steps/obs"]
    assert report.arrays["steps/obs"].outside == 1
    assert str(found).startswith("episode 4, step 7: steps/obs, agent_2, landmarks 1 came out as")


def test_a_rounding_error_is_within_the_tolerance(spread, tmp_path):
    other = rewritten(spread, tmp_path / "d", {"steps/obs": one((30, 0, 4), 2e-6)})
    report = replay(other, 30)
    assert (report.ok, report.exact) == (True, False)
    assert report.arrays["steps/obs"].differing == 1
    assert report.arrays["steps/obs"].max_error == pytest.approx(2e-6, rel=0.2)


def test_observations_a_step_late_are_caught(spread, tmp_path):
    found = first(rewritten(spread, tmp_path / "d", {"steps/obs": shifted}))
    assert (found.episode, found.step, found.array) == (0, 1, "steps/obs")


def test_rewards_a_step_late_are_caught(spread, tmp_path):
    other = rewritten(spread, tmp_path / "d", {"steps/reward": shifted})
    found = first(other)
    assert (found.episode, found.step, found.array) == (0, 1, "steps/reward")
    assert found.agent == "agent_0"
    assert found.stored == spread.read("steps/reward")[0, 0]
    assert found.got == spread.read("steps/reward")[1, 0]
    assert [n for n, gap in replay(other, 30).arrays.items() if not gap.ok] == ["steps/reward"]


def test_done_that_is_always_zero_is_caught(spread, tmp_path):
    found = first(rewritten(spread, tmp_path / "d", {"steps/truncated": np.zeros_like}))
    assert (found.episode, found.step, found.array) == (0, 24, "steps/truncated")
    assert (found.got, found.stored, found.agent) == (True, False, None)


def test_a_time_limit_called_a_termination_is_caught(spread, tmp_path):
    ends = spread.read("steps/truncated")
    changes = {"steps/truncated": np.zeros_like, "steps/terminated": lambda _: ends.copy()}
    other = rewritten(spread, tmp_path / "d", changes)
    assert verify(other.path).ok
    found = first(other)
    assert (found.episode, found.step, found.array) == (0, 24, "steps/terminated")


def test_episodes_cut_in_two_are_caught(spread, tmp_path):
    cut = np.repeat([10, 15], 30).reshape(2, 30).T.reshape(-1)

    def doubled(values):
        return np.repeat(values, 2, axis=0)

    changes = {n: doubled for n in spread.names if n.startswith(("final/", "episodes/"))}
    changes = {n: c for n, c in changes.items() if n.split("/")[1] not in ("offset", "return")}
    changes = {n: c for n, c in changes.items() if n.split("/")[1] not in ("agent_return", "split")}
    changes |= {"episodes/length": lambda _: cut, "masks/random-k": doubled}
    found = first(rewritten(spread, tmp_path / "d", changes))
    assert (found.episode, found.step, found.array) == (0, None, "final/obs")
    assert replay(tmp_path / "d", 60).arrays["episodes/length"].outside == 60


def test_a_wrong_seed_is_caught_at_the_first_step(spread, tmp_path):
    def swap(seeds):
        seeds[[8, 9]] = seeds[[9, 8]]
        return seeds

    found = first(rewritten(spread, tmp_path / "d", {"episodes/seed": swap}))
    assert (found.episode, found.step, found.array) == (8, 0, "steps/obs")


def test_a_wrong_action_shows_in_the_next_observation(spread, tmp_path):
    def turn(actions):
        actions[2 * 25 + 3, 1] = (actions[2 * 25 + 3, 1] + 1) % 5
        return actions

    found = first(rewritten(spread, tmp_path / "d", {"steps/actions": turn}))
    assert (found.episode, found.step, found.array) == (2, 4, "steps/obs")
    assert found.agent == "agent_1"


def test_a_wrong_last_view_and_a_wrong_win(spread, tmp_path):
    found = first(rewritten(spread, tmp_path / "a", {"final/obs": one((3, 1, 0), 1.0)}))
    assert (found.episode, found.step, found.array) == (3, None, "final/obs")
    found = first(rewritten(spread, tmp_path / "b", {"episodes/won": lambda won: won + 2}))
    assert (found.array, found.got, found.stored) == ("episodes/won", -1, 1)


def test_an_agent_that_was_gone(leavers, tmp_path):
    alive = leavers.read("steps/alive")
    row, agent = np.argwhere(~alive)[0]

    def revive(values):
        values[row, agent] = True
        return values

    other = rewritten(leavers, tmp_path / "d", {"steps/alive": revive})
    found = first(other, environment=LEAVERS)
    bounds = np.cumsum(leavers.episodes("length"))
    episode = int(np.searchsorted(bounds, row, side="right"))
    assert found.episode == episode
    assert found.step == row - (bounds[episode - 1] if episode else 0)
    assert found.agent == leavers.spec.agents[agent]
    assert found.array in ("steps/alive", "steps/available_actions")


def test_a_dataset_without_seeds_says_so(spread, tmp_path):
    other = rewritten(spread, tmp_path / "d", without=("episodes/seed",))
    with pytest.raises(MissingArrayError, match="no episodes/seed"):
        replay(other, 1)


def test_environments_that_cannot_be_rebuilt(tmp_path, spread, monkeypatch):
    with pytest.raises(UsageError, match="cannot be played here: unknown environment 'test/random"):
        replay(tiny_dataset(tmp_path / "a"), 1)
    fewer = spread.spec.model_copy(update={"kwargs": {"n_agents": 2, "episode_limit": 25}})
    other = rewritten(spread, tmp_path / "b", manifest={"environment": fewer})
    with pytest.raises(MismatchError, match="its agents are"):
        replay(other, 1)
    with pytest.raises(UsageError, match="give 1 or more"):
        replay(spread, 0)
    gone = {"id": "pettingzoo/mpe2.simple_tag_v3:parallel_env", "kwargs": {}}
    other = rewritten(
        spread, tmp_path / "c", manifest={"environment": spread.spec.model_copy(update=gone)}
    )
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(MissingExtraError, match=r"kd-offline\[pettingzoo\]"):
        replay(other, 1)


def test_a_dataset_does_not_choose_how_much_memory_a_world_takes(spread, tmp_path):
    spec = spread.spec.model_copy(update={"kwargs": {"n_agents": 10**9, "episode_limit": 25}})
    other = rewritten(spread, tmp_path / "a", manifest={"environment": spec})
    with pytest.raises(UsageError, match="cannot be played here: setting 'n_agents'"):
        replay(other, 1)
    kwargs = {"n_agents": 3, "episode_limit": 10**6}
    spec = spread.spec.model_copy(update={"kwargs": kwargs, "episode_limit": 10**6})
    other = rewritten(spread, tmp_path / "b", manifest={"environment": spec})
    assert replay(other, 1).first.array == "steps/truncated", "played no longer than is stored"


def test_a_dataset_does_not_choose_which_code_runs(spread, tmp_path):
    harm = tmp_path / "harm"
    spec = spread.spec.model_copy(
        update={"id": "pettingzoo/os:mkdir", "kwargs": {"path": str(harm), "episode_limit": 25}}
    )
    other = rewritten(spread, tmp_path / "d", manifest={"environment": spec})
    with pytest.raises(UsageError, match="which a file may not start by itself"):
        replay(other, 1)
    with pytest.raises(UsageError, match="pass environment with the name that it states"):
        replay(other, 1, environment=TASKS[0])
    assert not harm.exists()
